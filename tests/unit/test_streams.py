"""Losing stdout or stderr: the status stays right, no traceback, and what can be said is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PDF_FLOWS = Path(sys.executable).with_name("pdf-flows")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line, str(PDF_FLOWS)], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_full_stdout_is_said_and_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_bytes(b"")
    done = shell('"$0" plan in out >/dev/full', tmp_path)
    assert (done.returncode, done.stderr) == (2, "pdf-flows: stdout cannot be written: No space left on device\n")


@pytest.mark.parametrize("redirection", [">&-", "<&- >&-"])
def test_a_closed_stdout_changes_no_status(tmp_path: Path, redirection: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_bytes(b"")
    done = shell(f'"$0" plan in out {redirection}', tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_left_changes_no_status(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_bytes(b"")
    done = shell('set -o pipefail; "$0" plan in out | true', tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_lost_stderr_changes_no_status(tmp_path: Path, redirection: str) -> None:
    done = shell(f'"$0" plan nowhere out {redirection}', tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
