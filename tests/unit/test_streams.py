"""Losing stdout or stderr: the status stays right, no traceback, and what can be said is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.streams import Lasting

PDF_FLOWS = Path(sys.executable).with_name("pdf-flows")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an input of which `plan` has something to say."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_bytes(b"")
    return tmp_path


def shell(line: str, folder: Path) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command line, in which "$0" is `pdf-flows`."""
    line = f"set -o pipefail; {line}"
    done = subprocess.run(
        ["bash", "-c", line, str(PDF_FLOWS)], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", ["plan in out", "plan in out --json", "--help"])
def test_a_full_stdout_is_said_and_is_no_success(place: Path, words: str) -> None:
    found = shell(f'"$0" {words} >/dev/full', place)
    assert found == (2, "", "pdf-flows: stdout cannot be written: No space left on device\n")


@pytest.mark.parametrize("words", ["plan in out", "--help"])
@pytest.mark.parametrize("lost", [">&-", "<&- >&-", "| true", "2>&- >&-"])
def test_a_stdout_without_a_reader_changes_no_status(place: Path, words: str, lost: str) -> None:
    assert shell(f'"$0" {words} {lost}', place) == (0, "", "")


@pytest.mark.parametrize("lost", ["2>&-", "2>/dev/full"])
def test_a_lost_stderr_changes_no_status(place: Path, lost: str) -> None:
    assert shell(f'"$0" plan nowhere out {lost}', place) == (2, "", "")


def test_a_lasting_stream_is_otherwise_the_stream_itself(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="latin-1") as file:
        lasting = Lasting(file)
        assert lasting.write("caf\u00e9") == 4
        lasting.flush()
        assert (lasting.encoding, lasting.isatty(), lasting.fileno()) == ("latin-1", False, file.fileno())
    assert (tmp_path / "log").read_bytes() == b"caf\xe9"
