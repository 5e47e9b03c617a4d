"""What the corpus's manifest allows for each document."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from tasks.corpus.failures import Category

CORPUS = Path(os.environ.get("PDF_FLOWS_CORPUS") or Path(__file__).resolve().parents[2] / "../shared/corpus").resolve()

ENCRYPTED, DAMAGED, NO_PAGES = Category.ENCRYPTED, Category.DAMAGED, Category.NO_PAGES
REFUSALS: dict[str, set[Category | None]] = {
    "ok": {None},
    "fails: password needed": {ENCRYPTED},
    "fails: encrypted in an unknown way": {Category.UNSUPPORTED_ENCRYPTION},
    "fails: not a PDF": {Category.NOT_A_PDF},
    "fails: empty file": {Category.EMPTY},
    "fails: no pages": {NO_PAGES},
    "fails: no pages (damaged)": {NO_PAGES, DAMAGED},
    "fails: damaged beyond repair": {DAMAGED},
    "fails: time limit": {Category.TIMEOUT, Category.MEMORY},
    "either: some text, or refused as damaged": {None, DAMAGED},
    "either: text, or refused as damaged": {None, DAMAGED},
    "either: the readable pages, or refused as damaged": {None, DAMAGED},
    "either: text, or refused as too large": {None, Category.TOO_LARGE, Category.MEMORY},
    "either: empty, or refused as too large": {None, Category.TOO_LARGE, Category.MEMORY},
}
"""What each expectation of the manifest allows; None is a conversion."""

KNOWN: dict[str, Category] = {}
"""Good documents that fail, and how: none."""


def manifest() -> list[dict[str, str]]:
    """The rows; [] where there is no corpus."""
    if not CORPUS.is_dir():
        return []
    with (CORPUS / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def unexpected(failures: dict[str, str], converted: set[str], rows: list[dict[str, str]] | None = None) -> list[str]:
    """One line for each document whose outcome its row does not allow.

    Args:
        failures: key -> category.
        converted: keys whose Markdown is there.
        rows: of the documents that were to be converted; None: all.
    """
    lines = []
    for row in manifest() if rows is None else rows:
        key = row["file"]
        outcome = Category(failures[key]) if key in failures else None
        allowed = REFUSALS[row["expected_outcome"]] | ({KNOWN[key]} if key in KNOWN else set())
        if outcome not in allowed:
            lines.append(f"{key}: {outcome or 'converted'}, expected {row['expected_outcome']}")
        if (outcome is None) != (key in converted):
            lines.append(
                f"{key}: its record says {outcome or 'converted'}, its output {'is' if key in converted else 'is not'} there"
            )
    return lines
