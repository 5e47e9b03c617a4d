"""The parts of the quality benchmark that decide its figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import quality

MARKDOWN = """\
# One

Text with a # in it, and #no heading.

## Two

| a | b |
|---|:-:|
| 1 | 2 |

```
# a comment, not a heading
| a | b |
|---|---|
```

<table><tr><td>x</td></tr></table>

|a|
|---|
"""


def test_headings_and_tables_are_counted_outside_code() -> None:
    assert quality.structure(MARKDOWN) == (2, 2, 1)


def corpus(folder: Path) -> Path:
    """Two documents with ground truth, one of them in part, and one without."""
    (folder / "a.txt").write_text("one two three four")
    (folder / "b.txt").write_text("five six")
    (folder / "score.py").write_text(
        "def score(gt, out):\n    return (float(gt == out), 1.0, len(out.split()) / len(gt.split()))\n"
    )
    rows = [("k/a.pdf", "a.txt", "full"), ("k/b.pdf", "b.txt", "part"), ("k/c.pdf", "", "")]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "kind", "pages", "sha256", "ground_truth", "gt_scope"])
        writer.writerows([name, "k", "1", name, truth, scope] for name, truth, scope in rows)
    return folder


def test_means_leave_out_partial_truth_but_for_recall_and_count_missing_output_as_zero(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    every = quality.documents(folder, [], every=False)
    assert [document.file for document in every] == ["k/a.pdf", "k/b.pdf"]
    assert [d.file for d in quality.documents(folder, ["*/c.pdf"], every=True)] == ["k/c.pdf"]
    kept = quality.Kept(tmp_path / "out", "text")
    kept.keep(every[0], quality.Record("k/a.pdf", "k/a.pdf", "ok"))
    kept.markdown(every[0]).write_text("one two")
    kept.keep(every[1], quality.Record("k/b.pdf", "k/b.pdf", "killed"))
    found = quality.figures(every, kept, quality.scorer(folder / "score.py"))["k"]
    assert (found["n"], found["missing"]) == (2, 1)
    assert (found["edit"], found["recall"], found["precision"]) == (0.0, 0.5, 0.5)


def test_a_score_is_kept_until_the_output_changes(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    (document,) = quality.documents(folder, ["k/a.pdf"], every=False)
    kept, score = quality.Kept(tmp_path / "out", "text"), quality.scorer(folder / "score.py")
    kept.keep(document, quality.Record("k/a.pdf", "k/a.pdf", "ok"))
    kept.markdown(document).write_text("one two three four")
    assert quality.scored(kept, document, score) == (1.0, 1.0, 1.0)
    del score.score  # it is not asked again
    assert quality.scored(kept, document, score) == (1.0, 1.0, 1.0)
    score.score = lambda truth, text: (0.25, 0.25, 0.25)
    kept.markdown(document).write_text("other")
    assert quality.scored(kept, document, score) == (0.25, 0.25, 0.25)


def test_a_record_of_another_version_of_the_document_is_not_reused(tmp_path: Path) -> None:
    (document,) = quality.documents(corpus(tmp_path), ["k/a.pdf"], every=False)
    kept = quality.Kept(tmp_path / "out", "text")
    kept.keep(document, quality.Record("k/a.pdf", "another", "ok"))
    assert kept.record(document) is None


def test_deltas_are_against_plain_pymupdf4llm() -> None:
    row = {"n": 1, "recall": 0.5, "precision": None, "headings": 1, "tables": 2, "html_tables": 3, "missing": 0}
    results = {"ours": {"k": row | {"edit": 0.75}}, "pymupdf4llm": {"k": row | {"edit": 0.5}}}
    assert list(quality.table(results))[2:] == [
        "| k | 1 | ours | 0.750 (+0.250) | 0.500 (+0.000) | - | 1 | 2 | 3 | 0 |",
        "| k | 1 | pymupdf4llm | 0.500 | 0.500 | - | 1 | 2 | 3 | 0 |",
    ]


def test_what_the_tools_took_is_compared_where_all_finished(tmp_path: Path) -> None:
    every = quality.documents(corpus(tmp_path), ["k/a.pdf", "k/b.pdf"], every=True)
    tools = {}
    for tool, outcomes in {"ours": ("ok", "ok"), "pymupdf4llm": ("ok", "killed")}.items():
        tools[tool] = quality.Kept(tmp_path / "out", tool)
        for document, outcome in zip(every, outcomes, strict=True):
            record = quality.Record(document.file, document.sha256, outcome, wall=3.0, cpu=2.0)
            tools[tool].keep(document, record)
            json.loads((tools[tool].folder / f"{document.file}.json").read_text())
    lines = list(quality.outcomes(every, tools))
    assert lines[2] == "| ours | 2 | 0 | 0 | 3.0 | 2.0 |"
    assert lines[3] == "| pymupdf4llm | 1 | 0 | 1 | 3.0 | 2.0 |"
    assert "ratio 1.00" in lines[5]
