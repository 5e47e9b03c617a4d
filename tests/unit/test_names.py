"""The name mapping: deterministic, valid everywhere, never reserved, and as near to injective as its rules allow."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.corpus.names import (
    ASSETS,
    MAX_NAME,
    MAX_SEGMENT,
    RUNS,
    TEMPORARY,
    assets_prefix,
    collision_key,
    is_pdf,
    output_name,
    printable,
    settle,
    unsupported,
)

# Pieces that meet the rules far more often than random text would; joined, they also make long and odd segments.
PIECES = st.sampled_from(
    [
        *["a", "A", "é", "e\u0301", "ſ", ".", "..", "/", "//", "%", "%2E", "%2e", "%0A", "%0a", "%25", "%2F", "%5F"],
        *["_runs", "_RUNS", "%5Fruns", ".assets", ".ASSETS", "%2Eassets", ".md", "%2Emd", ".pdf", ".PDF", TEMPORARY],
        *[
            "%2Epdf-flows-tmp",
            "\n",
            "\x85",
            "%C2%85",
            "\0",
            " ",
            "#",
            "~",
            "x" * 120,
            "中" * 40,
            "-",
            "+",
            "?",
            '"',
            "\\",
        ],
        *["\u202e", "📄"],
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
KEYS = (
    st.builds(
        lambda parts, suffix: "".join(parts) + suffix,
        st.lists(PIECES | TEXT, max_size=12),
        st.sampled_from([".pdf", ".PDF", ".Pdf"]),
    )
    | TEXT.map(lambda t: t + ".pdf")
).filter(lambda key: len(key) > 0)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("x.pdf", "x.md"),
        ("a/b/x.pdf", "a/b/x.md"),
        ("x.PDF", "x.PDF.md"),
        ("x.Pdf", "x.Pdf.md"),
        (".pdf", ".md"),
        ("dots...pdf", "dots...md"),
        ("...pdf", "...md"),
        ("percent%20encoded.pdf", "percent%20encoded.md"),
        ("100%.pdf", "100%.md"),
        ("new\nline.pdf", "new%0Aline.md"),
        ("new%0Aline.pdf", "new%250Aline.md"),
        ("a//b.pdf", "a/%2F/b.md"),
        ("/b.pdf", "%2F/b.md"),
        ("../b.pdf", "%2E%2E/b.md"),
        ("./b.pdf", "%2E/b.md"),
        ("%2E%2E/b.pdf", "%252E%252E/b.md"),
        ("_runs/b.pdf", "%5Fruns/b.md"),
        ("_RUNS/b.pdf", "%5FRUNS/b.md"),
        ("a/_runs/b.pdf", "a/_runs/b.md"),
        ("x.assets/b.pdf", "x%2Eassets/b.md"),
        ("x.md/b.pdf", "x%2Emd/b.md"),
        ("x.pdf/b.pdf", "x.pdf/b.md"),
        (f"{TEMPORARY}/b.pdf", "%2Epdf-flows-tmp/b.md"),
        (f"a/{TEMPORARY}-1.pdf", "a/%2Epdf-flows-tmp-1.md"),
        ("  spaces  .pdf", "  spaces  .md"),
        ("CON.pdf", "CON.md"),
    ],
)
def test_the_rules_one_by_one(key: str, name: str) -> None:
    assert output_name(key) == name


@given(KEYS)
@example("x" * 251 + ".pdf")
@example("é" * 600 + "/" + "y" * 300 + ".PDF")
@example("/".join(["d" * 250] * 4) + "/x.pdf")
def test_every_name_is_valid_and_reserves_nothing(key: str) -> None:
    name = output_name(key)
    assert name == output_name(key)
    settled = settle(name, key)
    assert settled != name
    for each in (name, settled):
        assert each.endswith(".md")
        assert len(each.encode()) <= MAX_NAME
        segments = each.split("/")
        assert collision_key(segments[0]) != RUNS
        for segment in [*segments, assets_prefix(each).split("/")[-2]]:
            assert segment not in ("", ".", "..")
            assert len(segment.encode()) <= MAX_SEGMENT
            assert not collision_key(segment).startswith(TEMPORARY)
            assert segment.isprintable() or not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in segment)
        assert not any(collision_key(s).endswith((ASSETS, ".md")) for s in segments[:-1])


@given(KEYS, KEYS)
@example("a%0a.pdf", "a\n.pdf")
@example("x.assets/y.pdf", "x%2Eassets/y.pdf")
@example("x.PDF", "x.PDF.pdf")
@example("/x.pdf", "%2F/x.pdf")
def test_names_meet_only_where_the_rules_say_so(one: str, other: str) -> None:
    a, b = collision_key(one), collision_key(other)
    meets = collision_key(output_name(one)) == collision_key(output_name(other))
    assert not meets or a == b or f"{a}.pdf" == b or f"{b}.pdf" == a
    if meets and one != other:
        assert collision_key(settle(output_name(other), other)) != collision_key(output_name(one))


@given(st.lists(PIECES, min_size=1, max_size=6), st.lists(PIECES, min_size=1, max_size=6))
def test_names_meet_only_where_the_rules_say_so_for_close_keys(one: list[str], other: list[str]) -> None:
    test_names_meet_only_where_the_rules_say_so.hypothesis.inner_test("".join(one) + ".pdf", "".join(other) + ".pdf")


@given(KEYS)
def test_a_name_can_be_written_below_a_folder_and_read_back(key: str) -> None:
    name = output_name(key)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(key)
        assets = Path(folder) / assets_prefix(name)
        assets.mkdir()
        found = [os.path.relpath(os.path.join(at, f), folder) for at, _, files in os.walk(folder) for f in files]  # noqa: PTH118
        assert found == [name]
        assert target.resolve().is_relative_to(Path(folder).resolve())


def test_long_names_keep_a_readable_head_and_differ() -> None:
    long = [f"reports/{'annual ' * 60}{year}.pdf" for year in (2001, 2002)]
    names = [output_name(key) for key in long]
    assert names[0] != names[1]
    assert all(name.startswith("reports/annual annual") and name.endswith(".md") for name in names)
    deep = [f"{'folder/' * 120}{year}.pdf" for year in (2001, 2002)]
    names = [output_name(key) for key in deep]
    assert names[0] != names[1]
    assert all(name.startswith("folder/folder/") and len(name.encode()) <= MAX_NAME for name in names)
    assert names[0].endswith(".md")
    assert "/2001~" in names[0]


def test_documents_of_one_overlong_folder_stay_together() -> None:
    folder = "f" * 300
    one, other = output_name(f"{folder}/1.pdf"), output_name(f"{folder}/2.pdf")
    assert one.split("/")[0] == other.split("/")[0]
    assert one != other


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a.pdf", True),
        ("a.PDF", True),
        (".pdf", True),
        ("d/.pdf", True),
        (".hidden.pdf", True),
        ("a.pdf.bak", False),
        ("pdf", False),
    ],
)
def test_is_pdf(key: str, *, expected: bool) -> None:
    assert is_pdf(key) is expected


def test_names_that_are_not_utf8_are_refused_with_a_reason() -> None:
    key = os.fsdecode(b"latin1-\xe9.pdf")
    assert "not UTF-8" in (unsupported(key) or "")
    with pytest.raises(ValueError, match=r"latin1-\\xe9\.pdf"):
        output_name(key)
    assert unsupported("café.pdf") is None


def test_collision_key_sees_what_folders_confuse() -> None:
    assert collision_key("Café.md") == collision_key("cafe\u0301.md")
    assert collision_key("STRASSE.md") == collision_key("straße.md")
    assert collision_key("a.md") != collision_key("b.md")


def test_settle_keeps_the_folder_and_names_the_key() -> None:
    assert settle("a/x.md", "a/X.pdf") == settle("a/x.md", "a/X.pdf")
    assert settle("a/x.md", "a/X.pdf") != settle("a/x.md", "a/x.PDF")
    assert settle("a/x.md", "k").startswith("a/x~")


@pytest.mark.parametrize(
    ("name", "prefix"), [("x.md", "x.assets/"), ("a/x.PDF.md", "a/x.PDF.assets/"), (".md", ".assets/")]
)
def test_assets_prefix(name: str, prefix: str) -> None:
    assert assets_prefix(name) == prefix


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("plain café 中.pdf", "plain café 中.pdf"),
        ("new\nline\t.pdf", "new\\nline\\t.pdf"),
        ("rtl-\u202efdp.exe", "rtl-\\u202efdp.exe"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (os.fsdecode(b"latin1-\xe9.pdf"), "latin1-\\xe9.pdf"),
        ("two\u2028lines\x85", "two\\u2028lines\\x85"),
    ],
)
def test_printable(key: str, shown: str) -> None:
    assert printable(key) == shown


@given(st.text(st.characters(), max_size=400))
def test_printable_is_one_short_line_that_can_be_encoded(key: str) -> None:
    shown = printable(key)
    assert len(shown) <= 300
    assert len(shown.splitlines()) <= 1
    shown.encode()
