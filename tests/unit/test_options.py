"""What a call may ask for: limits within reason, no empty addresses, passwords from where the reference points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.corpus.failure_file import replay_command
from tasks.corpus.failures import UsageError
from tasks.options import options_of
from tasks.passwords import read_passwords

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("name", ["document_timeout", "page_timeout"])
@pytest.mark.parametrize("value", [0, -1, INF, NAN, 1e300])
def test_time_limits_that_no_kernel_counts_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"bad {name.replace('_', '-')}: "):
        options_of(input="in", output="out", **{name: value})


@pytest.mark.parametrize("empty", [{"input": ""}, {"output": ""}, {"runs": ""}])
def test_an_empty_address_is_not_the_current_folder(empty: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="an address is empty"):
        options_of(**{"input": "in", "output": "out", **empty})


def test_passwords_of_any_editor(tmp_path: Path) -> None:
    file = tmp_path / "passwords.txt"
    file.write_bytes(b"\xef\xbb\xbffirst\r\n\r\n   \r\n two words \r\n")
    assert read_passwords(str(file)) == ["first", " two words "]


def test_a_replay_names_where_the_runs_are_if_that_is_elsewhere() -> None:
    assert replay_command("/out", "r", "a b.pdf", "/out/_runs") == "pdf-flows retry /out r --document='a b.pdf'"
    assert replay_command("/out/", "r", "a.pdf", "/out/_runs/") == "pdf-flows retry /out/ r --document=a.pdf"
    elsewhere = replay_command("s3://b/out", "r", "a.pdf", "s3://b/my runs")
    assert elsewhere == "pdf-flows retry s3://b/out r --runs='s3://b/my runs' --document=a.pdf"
