"""`pdf-flows rehearse`: the rehearsal on the user's own PDFs (docs/rehearsal.md)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from deployments.rehearsal.clock import NOTICE, SPEED, here
from deployments.say import Json, print_json, say, tell
from tasks.corpus.failures import UsageError

NEEDED = ("moto", "prefect_aws", "watchtower")
FOREIGN = ("AWS_", "PREFECT_", "PDF_FLOWS_")
LEAST, MOST = 3, 5
"""Workers: fewer are no fleet, and more only share this machine's cores."""
MOST_DOCUMENTS = 2000
TROUBLE = Group("Trouble", sort_key=1)
REAL = Group("The real corpus, for the predicted cost and hours on AWS", sort_key=2)


def rehearse(
    input: Annotated[Path, Parameter(help="A folder of PDFs.")],
    *,
    workers: Annotated[int, Parameter(help=f"{LEAST} to {MOST}.")] = LEAST,
    engine: Annotated[
        Literal["layout", "dolphin"], Parameter(help="dolphin reads on the CPU here: with a tiny model only.")
    ] = "layout",
    weights: Annotated[
        Path | None,
        Parameter(
            help="dolphin: a folder with the model; the repository has a tiny one, tests/parity/checkpoints/1.5."
        ),
    ] = None,
    limit: Annotated[int, Parameter(help="Of more PDFs a random sample of so many.")] = 60,
    copies: Annotated[
        int | None,
        Parameter(
            help="Put each PDF there so often. Default: once; with trouble, as often as it takes for 40 documents."
        ),
    ] = None,
    output: Annotated[
        Path | None, Parameter(help="An empty or new folder that keeps Markdown, run records, logs and transcript.")
    ] = None,
    interruptions: Annotated[
        int,
        Parameter(
            group=TROUBLE,
            help=f"So many machines get their Spot notice while they work: {NOTICE:g} s on AWS, {here(NOTICE):g} s here.",
        ),
    ] = 0,
    no_capacity: Annotated[
        str | None,
        Parameter(
            group=TROUBLE,
            help="No machine is to be had for so long, from the first interruption on. The rehearsal's clock goes "
            f"{SPEED:g} times as fast: 10m are {here(600):g} s here.",
        ),
    ] = None,
    s3_errors: Annotated[
        str | None,
        Parameter(group=TROUBLE, help="So many of the requests to S3 fail: 5% or 0.05."),
    ] = None,
    kill_parent: Annotated[
        bool, Parameter(group=TROUBLE, negative="", help="SIGKILL the parent in the middle, and start it again.")
    ] = False,
    documents: Annotated[
        int | None, Parameter(group=REAL, help="How many there are, like these. Default: the PDFs of INPUT.")
    ] = None,
    pages: Annotated[
        int | None, Parameter(group=REAL, help="Pages of all of them. Default: as many a document as here.")
    ] = None,
    pages_per_second: Annotated[
        list[str] | None,
        Parameter(
            group=REAL, negative="", help="TYPE=RATE of one worker, as gpu-check measured it; else planning values."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Run the real thing without an account, on a pretended AWS on this machine, in the trouble you ask for.

    Exit status: 0 all documents accounted for, once, nothing left, and all the trouble asked for was there; 1 not so; 2 bad
    usage or input; 3 a part of it did not come up, or it was interrupted.
    """
    from deployments.aws.planned_run import planned_run
    from deployments.rehearsal.trouble import trouble_of

    _refuse(documents, pages, output)
    trouble = trouble_of(interruptions, no_capacity, s3_errors, kill_parent)
    plan = planned_run(
        workers=_between("--workers", workers, LEAST, MOST), documents=documents, pages=pages, rates=pages_per_second
    )
    parameters = _engine(engine, weights)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} is not installed: sh requirements/install.sh dev brings what a rehearsal needs"
        )

    from deployments.rehearsal.play import ENOUGH, Transcript, Wish, chosen, pdfs_of, play

    found = pdfs_of(input)
    _between("--limit", limit, 1, MOST_DOCUMENTS)
    number = min(limit, len(found))
    if copies is None:
        copies = -(-ENOUGH // number) if trouble.blows or trouble.s3_errors else 1
    _between("--copies", copies, 1, MOST_DOCUMENTS // number)
    pdfs = chosen(found, limit, copies)
    wish = Wish(
        **trouble.model_dump(),
        workers=workers,
        parameters=parameters,
        keep=output.absolute() if output is not None else None,
    )
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"bad --output {output}: {error.strerror}") from None
    lines: list[str] = []

    def line(text: str) -> None:
        lines.append(text)
        (tell if as_json else say)(text)

    transcript = Transcript(line)
    if len(pdfs) != len(found):
        transcript(f"{len(found)} PDFs in {input}: {number} of them, {copies} times each")
    try:
        with _leaving(), _surroundings(output) as folder:
            done = play(folder, pdfs, transcript, wish, plan, len(found))
    except KeyboardInterrupt:
        tell("pdf-flows: interrupted; nothing of the rehearsal is left")
        return 3
    transcript("all of it is down")
    for text in done.lines():
        line(text)
    line("all accounted for, nothing left" if done.good else "NOT all is as it should be: see above")
    if output is not None:
        (output / "transcript.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (output / "rehearsal.json").write_text(json.dumps(done.json_line(), indent=1), encoding="utf-8")
        tell(f"kept in {output}: output/ (Markdown and _runs/), stage/ (logs), transcript.txt, rehearsal.json")
    if as_json:
        print_json(done.json_line())
    return 0 if done.good else 1


def _between(option: str, given: int, least: int, most: int) -> int:
    if not least <= given <= most:
        raise UsageError(f"bad {option} {given}: give {least} to {most}")
    return given


def _refuse(documents: int | None, pages: int | None, output: Path | None) -> None:
    for option, number in (("--documents", documents), ("--pages", pages)):
        if number is not None and number < 1:
            raise UsageError(f"bad {option} {number}: give 1 or more")
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"bad --output: {output} is no empty folder")


def _engine(engine: str, weights: Path | None) -> dict[str, Any]:
    """Parameters of the flow."""
    if engine == "layout":
        if weights is not None:
            raise UsageError("--weights goes with --engine dolphin")
        return {"engine": engine}
    if weights is None:
        raise UsageError(
            "--engine dolphin needs --weights: a folder with a tiny model, such as tests/parity/checkpoints/1.5"
        )
    if not weights.is_dir():
        raise UsageError(f"bad --weights: {weights} is no folder")

    from tasks.options import options_of
    from tasks.weights import check_model

    parameters = {"engine": engine, "model": str(weights.absolute())}
    options = options_of(input="s3://in/input", output="s3://out/output", **parameters)
    assert options.dolphin is not None
    check_model(options.dolphin)
    return parameters


@contextlib.contextmanager
def _surroundings(output: Path | None) -> Iterator[Path]:
    """No account, profile or Prefect API of the user's gets in. Before prefect is imported, which reads them."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="rehearsal-", ignore_cleanup_errors=True) as scratch:
        nothing = Path(scratch) / "none"
        folder = (output or Path(scratch)).absolute() / "stage"
        os.environ |= {
            "PREFECT_HOME": str(folder / "client"),
            "PREFECT_PROFILES_PATH": str(nothing),
            "AWS_CONFIG_FILE": str(nothing),
            "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
        }
        yield folder


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """Ctrl-C and SIGTERM end it once; what follows them must not stop it from ending what it started."""

    def handle(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
