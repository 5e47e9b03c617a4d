"""The manifest: what goes in comes out, in order; anything else is an error that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.failures import Category, Failure, Phase, StoreError
from tasks.corpus.manifest import Manifest, ManifestWriter, Row, decode, encode, write_rows

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
failures = st.builds(
    Failure,
    category=st.sampled_from(Category),
    phase=st.sampled_from(Phase),
    message=texts,
    retryable=st.booleans(),
    attempts=st.integers(1, 9),
    page=st.none() | st.integers(1, 9),
)
rows = st.builds(
    Row,
    index=st.integers(0, 10**9),
    key=texts,
    name=texts,
    size=st.integers(0, 2**63),
    etag=texts,
    done=st.booleans(),
    failure=st.none() | failures,
    pages=st.none() | st.integers(0, 10**6),
)


@given(rows)
def test_a_row_is_one_line_and_comes_back_as_it_was(row: Row) -> None:
    line = encode(row)
    assert "\n" not in line
    assert decode(line) == row


@given(st.lists(st.tuples(texts, texts), max_size=50))
def test_a_manifest_comes_back_in_order_any_number_of_times(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]
) -> None:
    wanted = [Row(index, key, name, 1, "e") for index, (key, name) in enumerate(names)]
    data, count = write_rows(wanted)
    path = tmp_path_factory.mktemp("m") / "manifest"
    path.write_bytes(data)
    manifest = Manifest(path)
    assert count == len(wanted)
    assert list(manifest.rows()) == wanted
    assert list(manifest.rows()) == wanted


def test_more_rows_than_one_block(tmp_path: Path) -> None:
    wanted = [Row(i, f"{i}.pdf", f"{i}.md", i, "e") for i in range(10_000)]
    data, _ = write_rows(wanted)
    (tmp_path / "m").write_bytes(data)
    assert list(Manifest(tmp_path / "m").rows()) == wanted


def test_indices_have_no_gaps() -> None:
    writer = ManifestWriter()
    writer.add(Row(0, "a", "a", 1, "e"))
    with pytest.raises(ValueError, match="row 2 at place 1"):
        writer.add(Row(2, "b", "b", 1, "e"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (b"not compressed", "can't be read"),
        (zstandard.compress(json.dumps({"schema": 99}).encode() + b"\n"), "another version"),
        (zstandard.compress(b"[]\n"), "another version"),
        (zstandard.compress(b"not json\n"), "can't be read"),
        (zstandard.compress(b'{"schema": 1}\n{"index": 0}\n'), "can't be read"),
    ],
)
def test_what_is_no_manifest_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=message):
        list(Manifest(path).rows())


def test_a_manifest_cut_short_is_an_error_and_not_a_shorter_run(tmp_path: Path) -> None:
    data, _ = write_rows(Row(i, f"{i}-{hash(str(i))}.pdf", f"{i}.md", i, str(hash(i))) for i in range(50_000))
    path = tmp_path / "manifest"
    for share in (0.3, 0.6, 0.999):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(StoreError):
            list(Manifest(path).rows())
