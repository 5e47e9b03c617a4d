"""Makes the pictures of docs/ui.md, docs/monitoring.md and docs/review.md anew.

Those of the UI: the sample PDFs and two broken files, converted by a run triggered there. Those of the monitor and the report:
a run whose objects are made, in its middle. Run by `make screenshots`; the first argument is the folder for the pictures, the
second, if there is one, chooses: ui, watching or review.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pymupdf
from moto.server import ThreadedMotoServer
from playwright.sync_api import Page
from rich.console import Console, Group
from ui import NoBrowser, RunForm, RunPage, Search, chromium, served

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memory_store import MemoryStore
from pictured_run import DONE_SECONDS, pictured_run
from watched_run import BEGAN, WatchedRun

from deployments.monitor import lines
from deployments.rehearsal.atomic_s3 import atomic_writes
from deployments.reviewing import review
from tasks.corpus.store import open_store
from tasks.corpus.trust import PageScore, Trust
from tasks.engines.markdown import Origin, assemble
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.engines.sandbox import Sandbox
from tasks.html import render
from tasks.lookout import Lookout
from tasks.page import Links, page_of
from tasks.view import run_view

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
ENDS = ("Completed with failures", "Completed", "Failed", "Stopped", "Refused", "Crashed")
READY_SECONDS = 20.0
"""Until the work queues have been asked for work, and are not shown as broken any more."""


def library(folder: Path) -> None:
    """The documents in the pictures."""
    folder.mkdir()
    for sample in SAMPLES.glob("*.pdf"):
        shutil.copy(sample, folder)
    whole = SAMPLES / "lighthouses.pdf"
    (folder / "torn-chart.pdf").write_bytes(whole.read_bytes()[:300])
    (folder / "web-page.pdf").write_text("<!DOCTYPE html><html><title>Not found</title></html>\n")
    with pymupdf.open(whole) as pdf:
        pdf.save(folder / "sealed-orders.pdf", encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="fog", owner_pw="horn")


@contextmanager
def bucket(name: str, folder: Path) -> Iterator[None]:
    """An S3 server for all processes to come, with the folder's files below `s3://name/pdfs/`.

    So that the pictures show addresses, not the folders of the machine that they were made on.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": host,
    }
    try:
        client = boto3.session.Session().client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=name)
        for file in folder.iterdir():
            client.upload_file(str(file), name, f"pdfs/{file.name}")
        yield
    finally:
        server.stop()


def take(page: Page, path: Path) -> None:
    """A picture of what is in the window, once all has come to rest."""
    page.mouse.move(1399, 899)
    page.wait_for_timeout(2500)
    page.screenshot(path=path)


def trigger(page: Page, address: str, pictures: Path) -> RunPage:
    """Fill in the form, and start the run."""
    page.goto(address)
    page.wait_for_timeout(READY_SECONDS * 1000)
    form = RunForm.open(page, address, "convert-corpus")
    form.field("input").fill("s3://harbour-library/pdfs")
    form.field("output").fill("s3://harbour-library/markdown")
    form.field("max_failure_rate").fill("0.5")
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.mouse.move(800, 500)
    page.mouse.wheel(0, -5000)
    take(page, pictures / "form.png")
    return form.start()


def watching(pictures: Path) -> None:
    """The monitor as a terminal would show it, and the report as a browser does."""
    run = pictured_run(MemoryStore(), "s3://harbour-library/markdown")
    with Lookout(run.store, run.spec, wall=lambda: BEGAN + DONE_SECONDS) as lookout:
        facts = lookout.catch_up()
    console = Console(file=io.StringIO(), record=True, width=118, force_terminal=True)
    console.print(Group(*lines(run_view(facts), width=118, height=30)))
    drawn = console.export_svg(title="pdf-flows monitor s3://harbour-library/markdown", unique_id="monitor")
    # A picture of the documentation fetches no fonts.
    (pictures / "monitor.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))
    with tempfile.TemporaryDirectory() as name, chromium(Path(name) / "profile") as page:
        file = Path(name) / "report.html"
        links = Links("../../", "http://127.0.0.1:4200")
        file.write_text(render(page_of(facts, "s3://harbour-library/markdown/_runs", links)))
        page.set_viewport_size({"width": 1100, "height": 1560})
        page.goto(file.as_uri())
        page.screenshot(path=pictures / "report.png")


def reviewed(pictures: Path) -> None:
    """The worst pages of some samples and of a sheet whose second half is drawn, not written, as `review` shows them."""
    with tempfile.TemporaryDirectory() as name, chromium(Path(name) / "profile") as page:
        source = open_store(f"{name}/in", writable=True)
        output, runs = MemoryStore(), MemoryStore()
        keys = {0: "1893/harbour-dues.pdf", 1: "1887/keepers-log-scan.pdf", 2: "1887/tides.pdf"}
        data = [drawn_sheet(), *((SAMPLES / key.rpartition("/")[2]).read_bytes() for key in list(keys.values())[1:])]
        place = "s3://harbour-library"
        run = WatchedRun(runs, len(keys), 1, keys=keys, input=f"{place}/pdfs", output=f"{place}/markdown")
        run.live(0)
        scratch = Path(name) / "scratch"
        scratch.mkdir()
        with Sandbox(EngineName.LAYOUT, Limits(), scratch=scratch) as sandbox:
            for index, key in keys.items():
                source.put(key, data[index])
                (scratch / "in.pdf").write_bytes(data[index])
                pages = sandbox.convert(scratch / "in.pdf", scratch / "out", []).pages
                origin = Origin(source=key, sha256="", pages=len(pages), engine="layout")
                output.put(f"{key[:-4]}.md", assemble(pages, Rendering(page_markers=True), origin).encode())
                scored = [(one.number, one.trust) for one in pages if one.trust is not None]
                trust = Trust.of(
                    PageScore(page=number, score=one.score, parts={str(k): v for k, v in one.parts.items()})
                    for number, one in scored
                )
                run.record(0, index, pages=len(pages), trust=trust)
        run.flush()
        file = Path(name) / "review.html"
        review(output, runs, None, most=9, to=str(file), source=source.url, password_file=None, as_json=False)
        page.set_viewport_size({"width": 1100, "height": 1000})
        page.goto(file.as_uri())
        page.screenshot(path=pictures / "review.png")


def drawn_sheet() -> bytes:
    """A page with a heading that is text, and a table whose letters are curves, as drawing programs export them."""
    with pymupdf.open() as text, pymupdf.open() as made:
        sheet = text.new_page(width=500, height=420)
        dues = (("Vessel", "Tons", "Dues"), ("Aurora", "212", "4 pounds"), ("Beatrix", "96", "2 pounds"))
        for row, cells in enumerate(dues * 4):
            for column, cell in enumerate(cells):
                sheet.insert_text((20 + 160 * column, 30 + 32 * row), cell, fontsize=15)
        drawn = pymupdf.open("svg", sheet.get_svg_image(text_as_path=True).encode()).convert_to_pdf()
        page = made.new_page(width=595, height=700)
        page.insert_text((60, 80), "Harbour dues of the year 1893", fontsize=20)
        page.insert_textbox(
            (60, 110, 535, 210), "The dues are paid to the keeper before a vessel leaves. " * 4, fontsize=12
        )
        page.show_pdf_page(pymupdf.Rect(50, 230, 550, 650), pymupdf.open("pdf", drawn))
        return bytes(made.tobytes())


def main(pictures: Path, only: str = "") -> None:
    """Take them all."""
    pictures.mkdir(parents=True, exist_ok=True)
    if only in ("", "watching"):
        watching(pictures)
    if only in ("", "review"):
        reviewed(pictures)
    if only in ("", "ui"):
        ui(pictures)


def ui(pictures: Path) -> None:
    """Those of the Prefect UI."""
    with tempfile.TemporaryDirectory() as name, atomic_writes():
        home = Path(name)
        library(home / "library")
        with bucket("harbour-library", home / "library"), served(home) as address, chromium(home / "profile") as page:
            run = trigger(page, address, pictures)
            state = run.wait(*ENDS)
            if state != ENDS[0]:
                sys.exit(f"the run ended as {state}, not as {ENDS[0]}")
            child = next(name for name in sorted(run.children(2)) if name.endswith("worker-0"))
            page.get_by_role("button", name="Recenter graph").click()
            take(page, pictures / "run.png")
            run.artifact("summary")
            take(page, pictures / "summary.png")
            run.artifact("failures")
            take(page, pictures / "failures.png")
            Search(page, address).task_runs("torn", 1)
            take(page, pictures / "search.png")
            worker = run.child(child)
            worker.logs()
            page.get_by_text("[Worker 0] Completed").scroll_into_view_if_needed()
            page.mouse.move(800, 500)
            page.mouse.wheel(0, 5000)
            take(page, pictures / "logs.png")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except NoBrowser as error:
        sys.exit(str(error))
