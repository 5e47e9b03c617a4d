"""How good the Markdown is: the layout engine beside plain tools, over the corpus's documents with ground truth, in one run.

    .venv/bin/python tests/benchmarks/quality.py --out FOLDER [--only paper] [--tools ours,pymupdf4llm] [--reuse FOLDER]

`ours`: as `convert` does it, in the sandbox, with the default limits. `pymupdf4llm`: `to_markdown(path)`, as it comes.
`text`: the pages' text layers. `text+ocr`: the same, and RapidOCR at 200 dpi on pages without one. The plain ones have a
killable child for each document (tests/benchmarks/plain.py), since they hang on some. All get the same number of threads.

Every tool's Markdown stays in FOLDER/TOOL, with a record of its outcome and seconds beside it. Plain tools take long and
never change: `--reuse` takes from an earlier run's folder what is there. Scores are those of the corpus's own score.py: edit
similarity, recall and precision of words, means by kind; a document without output counts as 0.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = Path(os.environ.get("PDF_FLOWS_CORPUS") or ROOT.parent / "shared" / "corpus")
OURS = "ours"
PLAIN = ("pymupdf4llm", "text", "text+ocr")
BASE = "pymupdf4llm"
"""What the deltas are against."""
START_SECONDS = 60.0
"""For a plain tool's child to import its libraries on a busy machine."""
Score = tuple[float, float, float]

_FENCE = re.compile(r"^\s*(```|~~~).*?^\s*\1\s*$", re.M | re.S)
_HEADING = re.compile(r"^ {0,3}#{1,6} +\S", re.M)
_TABLE = re.compile(r"^ *\|[^\n]*\|[^\n]*\n *\|(?: *:?-+:? *\|)+ *$", re.M)
_HTML_TABLE = re.compile(r"<table\b", re.I)


@dataclass
class Record:
    """What became of one document with one tool."""

    file: str
    sha256: str
    outcome: str
    """ok, failed or killed."""
    cause: str = ""
    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    """MiB that one process had in memory at most, where that is known: on Linux, by the layout engine."""
    threads: int = 1
    score: list[float] = field(default_factory=list)
    scored: str = ""
    """Hash of what the score was made from."""


@dataclass(frozen=True)
class Document:
    """A row of the manifest."""

    file: str
    kind: str
    pages: int
    sha256: str
    truth: Path | None
    part: bool
    """Only some of the text is in the ground truth: recall only."""


def documents(corpus: Path, only: Sequence[str], *, every: bool) -> list[Document]:
    """Those that can be scored (`every`: the others, too), of the kinds or names that are asked for."""
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Document(
            file=row["file"],
            kind=row["kind"],
            pages=int(row["pages"] or 1),
            sha256=row["sha256"],
            truth=corpus / row["ground_truth"] if row["ground_truth"] else None,
            part=row["gt_scope"] == "part",
        )
        for row in rows
        if (row["ground_truth"] or every)
        and (not only or any(row["kind"] == name or fnmatch.fnmatchcase(row["file"], name) for name in only))
    ]


def scorer(path: Path) -> ModuleType:
    """score.py, as a library."""
    spec = importlib.util.spec_from_file_location("corpus_score", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Kept:
    """One tool's outputs in a folder."""

    def __init__(self, folder: Path, tool: str) -> None:
        self.folder = folder / tool

    def markdown(self, document: Document) -> Path:
        return self.folder / (document.file + ".md")

    def record(self, document: Document) -> Record | None:
        """None where there is none, or one of another version of the document."""
        try:
            record = Record(**json.loads(self._json(document).read_text()))
        except OSError:
            return None
        return record if record.sha256 == document.sha256 else None

    def keep(self, document: Document, record: Record) -> None:
        path = self._json(document)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(record)) + "\n")

    def text(self, document: Document) -> str | None:
        try:
            return self.markdown(document).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def _json(self, document: Document) -> Path:
        return self.folder / (document.file + ".json")


def by_plain(tool: str, corpus: Path, document: Document, out: Path, threads: int) -> Record:
    """By a plain tool, in a child that is killed 120 s and 10 s a page after its start."""
    limit = 120.0 + 10.0 * document.pages
    names = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    child = subprocess.Popen(
        [sys.executable, str(HERE / "plain.py"), tool, str(corpus / document.file), str(out), str(threads)],
        cwd=ROOT,
        env={**os.environ, **names, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    record = Record(document.file, document.sha256, "ok", threads=threads)
    try:
        said, errors = child.communicate(timeout=START_SECONDS + limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        record.outcome, record.cause, record.wall = "killed", f"over {limit:g} s", limit
        return record
    if child.returncode != 0:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        record.outcome, record.cause = "failed", last[:200] or f"status {child.returncode}"
        return record
    seconds = json.loads(said)
    record.wall, record.cpu = round(seconds["wall"], 3), round(seconds["cpu"], 3)
    return record


@contextmanager
def layout_engine(corpus: Path, threads: int) -> Iterator[Callable[[Document, Path], Record]]:
    """By the layout engine, as a worker has it: one slot, default limits, no passwords."""
    from tasks.corpus.failures import ConversionError
    from tasks.engines.markdown import Origin, assemble, assemble_whole
    from tasks.engines.protocol import EngineName, EngineResult, Limits, Rendering
    from tasks.pool import open_pool

    def markdown(document: Document, result: EngineResult) -> str:
        origin = Origin(source=document.file, sha256=document.sha256, pages=len(result.pages), engine="layout")
        if result.whole is not None:
            return assemble_whole(result.whole, Rendering(), origin)
        return assemble(result.pages, Rendering(), origin)

    with tempfile.TemporaryDirectory(prefix="quality-") as name:
        work = Path(name)
        work.chmod(0o711)  # children of a sandbox run as nobody, if we are root
        pool = open_pool(EngineName.LAYOUT, {}, Limits(), work, slots=1, threads=threads, recycle_after=50, idle=False)
        pool.start()
        pool.ready(180.0)

        def run(document: Document, out: Path) -> Record:
            copy = Path(shutil.copyfile(corpus / document.file, work / "document.pdf"))
            copy.chmod(0o644)
            assets = Path(tempfile.mkdtemp(prefix="assets-", dir=work))
            record = Record(document.file, document.sha256, "ok", threads=threads)
            forget_peaks()
            begun, cpu = time.monotonic(), cpu_of_children()
            try:
                result = pool.convert(copy, document.file, [], assets, lambda page, pages: None)
                out.write_text(markdown(document, result), encoding="utf-8")
                gaps = [page.number for page in result.pages if page.gap is not None]
                record.cause = "; ".join([f"gap: page {number}" for number in gaps] + result.warnings)[:500]
            except ConversionError as error:
                record.outcome, record.cause = "failed", str(error)
            record.wall, record.cpu = round(time.monotonic() - begun, 3), round(cpu_of_children() - cpu, 3)
            record.peak = peak_of_children()
            shutil.rmtree(assets)
            return record

        try:
            yield run
        finally:
            pool.close()


def children() -> dict[int, float]:
    """CPU seconds of every living process below this one, by its number."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(map(int, fields[11:15])) / ticks
    found = {}
    for process in parents:
        above = parents[process]
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid():
            found[process] = used[process]
    return found


def cpu_of_children() -> float:
    """CPU seconds of everything below this process: what ended, and what lives."""
    mine = os.times()
    return mine.children_user + mine.children_system + sum(children().values())


def forget_peaks() -> None:
    """Let the peaks of the children's memory count from now (proc(5), clear_refs); left as they are where that is denied."""
    for process in children():
        with suppress(OSError):
            Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_of_children() -> int:
    """MiB that the largest of those that live had in memory at most."""
    peaks = [0]
    for process in children():
        with suppress(OSError):
            found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.M)
            peaks += [int(found[1]) >> 10] if found else []
    return max(peaks)


def produce(
    tools: Sequence[str], every: list[Document], corpus: Path, out: Path, reuse: dict[str, Path], threads: int
) -> dict[str, Kept]:
    """All tools' outputs in `out`, one document after the other, so that what else runs on the machine is the same for all.

    Documents without ground truth go through those tools only whose times are compared.

    Args:
        reuse: by tool, the folder of an earlier run: what is there is copied.
    """
    kept = {tool: Kept(out, tool) for tool in tools}
    todo = []
    for document in sorted(every, key=lambda document: document.pages):
        wanted = tools if document.truth is not None else [tool for tool in tools if tool in (OURS, BASE)]
        for tool in wanted:
            if tool not in reuse or not copied(Kept(reuse[tool], tool), kept[tool], document):
                todo.append((document, tool))
    with ExitStack() as stack:
        layout = stack.enter_context(layout_engine(corpus, threads)) if any(tool == OURS for _, tool in todo) else None
        for number, (document, tool) in enumerate(todo, 1):
            path = kept[tool].markdown(document)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if tool == OURS and layout is not None:
                record = layout(document, path)
            else:
                record = by_plain(tool, corpus, document, path, threads)
            kept[tool].keep(document, record)
            most = f", {record.peak} MiB" if record.peak else ""
            told = f"{record.outcome} {record.wall:.1f} s, {record.cpu:.1f} of CPU{most} {record.cause[:120]}".rstrip()
            sys.stderr.write(f"{number}/{len(todo)} {tool} {document.file}: {told}\n")
    return kept


def copied(earlier: Kept, kept: Kept, document: Document) -> bool:
    """Whether an earlier run has the document's output; it is in `kept` then."""
    record = earlier.record(document)
    if record is None:
        return False
    if earlier.folder != kept.folder:
        kept.keep(document, record)
        kept.markdown(document).unlink(missing_ok=True)
        if record.outcome == "ok":
            shutil.copyfile(earlier.markdown(document), kept.markdown(document))
    return True


def scored(kept: Kept, document: Document, score: ModuleType) -> Score:
    """The document's figures, from its record if they are there for the same texts; without output zeros."""
    text, record = kept.text(document), kept.record(document)
    assert document.truth is not None
    if text is None or record is None:
        return 0.0, 0.0, 0.0
    truth = document.truth.read_text(encoding="utf-8")
    made_from = hashlib.sha256()
    for part in (Path(str(score.__file__)).read_text(), truth, text):
        made_from.update(hashlib.sha256(part.encode(errors="surrogatepass")).digest())
    if record.scored != made_from.hexdigest():
        record.score, record.scored = [round(x, 6) for x in score.score(truth, text)], made_from.hexdigest()
        kept.keep(document, record)
    edit, recall, precision = record.score
    return edit, recall, precision


def structure(text: str) -> tuple[int, int, int]:
    """How many headings, GitHub tables and HTML tables are in a Markdown text; code blocks do not count."""
    bare = _FENCE.sub("", text)
    return len(_HEADING.findall(bare)), len(_TABLE.findall(bare)), len(_HTML_TABLE.findall(bare))


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def figures(every: list[Document], kept: Kept, score: ModuleType) -> dict[str, dict[str, object]]:
    """By kind, what one tool's outputs are worth."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for document in every:
        group = found[document.kind]
        counts[document.kind] = [
            a + b for a, b in zip(counts[document.kind], structure(kept.text(document) or ""), strict=True)
        ]
        if document.truth is None:
            continue
        edit, recall, precision = scored(kept, document, score)
        group["recall"].append(recall)
        if not document.part:
            group["edit"].append(edit)
            group["precision"].append(precision)
        if kept.text(document) is None:
            group["missing"].append(1)
    return {
        kind: {
            "n": len(group["recall"]),
            **{name: mean(group[name]) for name in ("edit", "recall", "precision")},
            "missing": len(group["missing"]),
            **dict(zip(("headings", "tables", "html_tables"), counts[kind], strict=True)),
        }
        for kind, group in found.items()
    }


def cell(value: object, base: object = None) -> str:
    if not isinstance(value, float):
        return "-"
    delta = f" ({value - base:+.3f})" if isinstance(base, float) else ""
    return f"{value:.3f}{delta}"


def table(results: dict[str, dict[str, dict[str, object]]]) -> Iterator[str]:
    """Lines of a Markdown table: a row for each kind and tool, deltas against pymupdf4llm where that was measured."""
    yield "| kind | n | tool | edit | recall | precision | headings | tables | HTML tables | missing |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for kind in sorted({kind for groups in results.values() for kind in groups}):
        for tool, groups in results.items():
            row = groups[kind]
            base = results[BASE][kind] if BASE in results and tool != BASE else {}
            values = [cell(row[name], base.get(name)) for name in ("edit", "recall", "precision")]
            counts = [str(row[name]) for name in ("headings", "tables", "html_tables", "missing")]
            yield f"| {' | '.join([kind, str(row['n']), tool, *values, *counts])} |"


def outcomes(every: list[Document], tools: dict[str, Kept]) -> Iterator[str]:
    """Lines on what each tool finished, and what that took where all did."""
    records = {tool: {d.file: record for d in every if (record := kept.record(d))} for tool, kept in tools.items()}
    finished = {tool: {file for file, record in rs.items() if record.outcome == "ok"} for tool, rs in records.items()}
    common = set.intersection(*finished.values())
    pages = sum(document.pages for document in every if document.file in common)
    yield f"| tool | finished | failed | killed | wall s on the {len(common)} files ({pages} pages) that all finish | CPU s |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for tool, rs in records.items():
        kinds = [sum(record.outcome == outcome for record in rs.values()) for outcome in ("ok", "failed", "killed")]
        spent = [sum(getattr(rs[file], name) for file in common) for name in ("wall", "cpu")]
        yield f"| {' | '.join([tool, *map(str, kinds), *(f'{value:.1f}' for value in spent)])} |"
    if OURS in records and BASE in records:
        yield ""
        there = finished[BASE] & set(records[OURS])
        for name in ("wall", "cpu"):
            ours, base = (sum(getattr(records[tool][file], name) for file in there) for tool in (OURS, BASE))
            ratio = f"{ours / base:.2f}" if base else "-"
            yield f"{name}, on the {len(there)} files that {BASE} finishes: ours {ours:.1f} s, {BASE} {base:.1f} s, ratio {ratio}"
    for tool, rs in records.items():
        for record in rs.values():
            if record.outcome != "ok":
                yield f"{tool} {record.outcome} {record.file}: {record.cause}"


def by_file(every: list[Document], tools: dict[str, Kept], score: ModuleType) -> Iterator[str]:
    """Lines on each document: edit, recall and precision by tool."""
    for document in every:
        if document.truth is not None:
            parts = []
            for tool, kept in tools.items():
                edit, recall, precision = scored(kept, document, score)
                whole = "" if document.part else f"{edit:.3f}/"
                parts.append(f"{tool} {whole}{recall:.3f}" + ("" if document.part else f"/{precision:.3f}"))
            yield f"{document.file}: {', '.join(parts)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder with manifest.csv; else PDF_FLOWS_CORPUS")
    parser.add_argument("--score", type=Path, help="score.py; the corpus's own, if not given")
    parser.add_argument("--only", action="append", default=[], help="a kind, or a glob over names (repeatable)")
    parser.add_argument("--tools", default=",".join((OURS, *PLAIN)))
    parser.add_argument("--out", type=Path, required=True, help="where every tool's Markdown and records stay")
    parser.add_argument("--reuse", type=Path, help="an earlier run's folder: plain tools' outputs are taken from there")
    parser.add_argument("--score-only", action="store_true", help="nothing runs: score what is in --out")
    parser.add_argument("--all", action="store_true", help="documents without ground truth, too: for time and counts")
    parser.add_argument("--files", action="store_true", help="print every document's figures, too")
    parser.add_argument("--threads", type=int, default=1, help="of the numeric libraries, for each tool")
    parser.add_argument("--json", action="store_true", help="print the figures by kind as JSON")
    options = parser.parse_args()
    corpus = options.corpus.resolve()
    tools = options.tools.split(",")
    if unknown := set(tools) - {OURS, *PLAIN}:
        parser.error(f"no such tool: {', '.join(sorted(unknown))}")
    if not (corpus / "manifest.csv").is_file():
        parser.error(f"no manifest.csv in {corpus}: name the corpus by --corpus or PDF_FLOWS_CORPUS")
    every = documents(corpus, options.only, every=options.all)
    if not every:
        parser.error("no document of the manifest is asked for")
    score = scorer(options.score or corpus / "score.py")
    out, reuse = options.out.resolve(), options.reuse and options.reuse.resolve()
    if options.score_only:
        kept = {tool: Kept(out, tool) for tool in tools}
    else:
        earlier = {tool: reuse for tool in tools if tool != OURS and reuse is not None}
        kept = produce(tools, every, corpus, out, earlier, options.threads)
    results = {tool: figures(every, outputs, score) for tool, outputs in kept.items()}
    if options.json:
        sys.stdout.write(json.dumps(results, indent=1) + "\n")
        return 0
    lines = [*table(results), "", *outcomes(every, kept)]
    if options.files:
        lines += ["", *by_file(every, kept, score)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
