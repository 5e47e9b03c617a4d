"""`pdf-flows failures`: what it prints can be pasted, and where pasting alone would fail again it says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from watched_run import RUN_ID, WatchedRun

from deployments.cli import app
from tasks.corpus.failures import Category, Failure, Phase
from tasks.corpus.store import open_store


@pytest.mark.parametrize("category", [Category.ENCRYPTED, Category.DAMAGED])
def test_a_locked_document_needs_a_password_behind_its_command(
    category: Category, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run = WatchedRun(open_store(str(out / "_runs"), writable=True), 2, 1, output=str(out))
    run.live(0)
    run.record(0, 0)
    run.fail(0, 1, failure=Failure(category=category, phase=Phase.OPEN, message="m", retryable=False))
    run.flush()
    assert app(["failures", str(out)], result_action="return_value") == 0
    said = capsys.readouterr().out
    assert f"pdf-flows retry {out} {RUN_ID} --document={run.key(1)}" in said
    assert ("--password-file" in said) is (category is Category.ENCRYPTED)
