"""`pdf-flows review`: the worst pages of a run with their pictures, everything escaped, of bounded size; on folders and S3."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pymupdf
import pytest
from conftest import MotoS3
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore
from report_kit import Elements, html
from review_kit import HOSTILE, document, markdown, reviewed_run, trust
from watched_run import RUN_ID, WatchedRun

from deployments.cli import app
from deployments.reporting import report as tell
from deployments.reviewing import review
from tasks.corpus.failures import UsageError
from tasks.corpus.ledger import Outcome, Record
from tasks.corpus.store import Store, open_store
from tasks.corpus.tally import DOUBTFUL, Tally
from tasks.engines.markdown import Origin, assemble
from tasks.engines.protocol import Page, Rendering
from tasks.page import Links
from tasks.review import shown_pages
from tasks.worst_pages import MOST_TEXT, page_text, worst_pages


def record(index: int, **more: object) -> Record:
    given = {"worker": 0, "attempt": 0, "epoch": 0, "key": f"{index}.pdf", "name": f"{index}.md", "at": 1.0}
    return Record.model_validate({**given, "index": index, "outcome": Outcome.CONVERTED, **more})


# -- which pages --------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), max_size=12), st.integers(1, 9))
def test_the_worst_pages_come_first_and_no_more_than_asked_for(scores: list[list[float]], most: int) -> None:
    records = [record(n, trust=trust(*enumerate(some, 1))) for n, some in enumerate(scores)]
    found = worst_pages(records, most)
    named = sorted(one.score for each in records if each.trust is not None for one in each.trust.pages)
    assert [one.score.score for one in found.pages] == named[:most]
    assert (found.published, found.scored) == (len(records), len(records))


def test_only_what_was_published_counts_and_that_once() -> None:
    scored = trust((1, 0.1))
    found = worst_pages(
        [
            record(0, outcome=Outcome.INTENT, trust=scored),
            record(0, trust=scored),
            record(0, outcome=Outcome.RECOVERED, trust=scored),
            record(1),
            record(2, outcome=Outcome.SKIPPED),
        ],
        9,
    )
    assert [(one.record.index, one.record.outcome) for one in found.pages] == [(0, Outcome.CONVERTED)]
    assert (found.published, found.scored) == (2, 1)


# -- a page's Markdown --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.text("ab #\n|*", max_size=30), min_size=1, max_size=6), st.booleans())
def test_a_page_is_found_in_the_document(texts: list[str], front: bool) -> None:
    pages = [Page(number=n, text=text) for n, text in enumerate(texts, 1)]
    origin = Origin(source="a", sha256="b", pages=len(pages), engine="layout")
    whole = assemble(pages, Rendering(page_markers=True, front_matter=front), origin)
    for page in pages:
        assert page_text(whole, page.number, len(pages)) == (page.text.strip("\n").rstrip(), "")


def test_without_markers_it_says_that_it_is_the_document() -> None:
    found = page_text("one\n\ntwo\n", 2, 2)
    assert found.text == "one\n\ntwo"
    assert "no page markers" in found.note
    assert page_text("one\n", 1, 1) == ("one", "")


def test_a_very_long_page_is_cut_and_that_is_said() -> None:
    found = page_text("<!-- page 1 -->\n\n" + "x" * (MOST_TEXT + 5), 1, 1)
    assert len(found.text) == MOST_TEXT
    assert "20,000 of 20,005" in found.note


# -- the file -----------------------------------------------------------------------------------------------------------


def stores(tmp_path: Path) -> tuple[Store, Store, Store]:
    output = open_store(str(tmp_path / "out"), writable=True)
    return (
        open_store(str(tmp_path / "out" / "_runs"), writable=True),
        open_store(str(tmp_path / "in"), writable=True),
        output,
    )


def write(runs: Store, output: Store, to: Path, **more: object) -> str:
    given = {"most": 50, "to": str(to), "source": None, "password_file": None, "as_json": False, **more}
    assert review(output, runs, None, **given) == 0  # type: ignore[arg-type]
    return to.read_text()


def pictures(page: str) -> list[bytes]:
    found = [value for tag, name, value in Elements(page).attributes if (tag, name) == ("img", "src")]
    return [base64.b64decode(value.removeprefix("data:image/jpeg;base64,"), validate=True) for value in found]


def size_of(jpeg: bytes) -> tuple[int, int]:
    picture = pymupdf.Pixmap(jpeg)
    return picture.width, picture.height


def test_pages_come_with_picture_text_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source, output = stores(tmp_path)
    reviewed_run(runs, source, output, {0: "a/first.pdf", 1: "second.pdf"})
    page = write(runs, output, tmp_path / "review.html")
    text = " ".join(Elements(page).text.split())
    assert re.findall(r"(0\.\d\d) (?:a/first|second)\.pdf page (\d) of 3", text) == [
        ("0.19", "1"),
        ("0.20", "1"),
        ("0.49", "2"),
        ("0.50", "2"),
        ("0.79", "3"),
        ("0.80", "3"),
    ]
    assert "75% of the words in the page's text layer are not in the Markdown" in text
    assert "12% of what looks like writing" in text
    assert text.count("Page 2 as it was read") == 2
    assert [size_of(jpeg) for jpeg in pictures(page)] == [(900, 1200)] * 6
    assert f"{(tmp_path / 'out').as_uri()}/a/first.md" in page
    said = capsys.readouterr()
    assert "0.19  second.pdf p. 1: 75% of the words" in said.out
    assert "6 pages)" in said.out
    assert said.err == ""


def test_the_worst_only_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source, output = stores(tmp_path)
    reviewed_run(runs, source, output, {0: "first.pdf", 1: "second.pdf"})
    page = write(runs, output, tmp_path / "r.html", most=2, as_json=True)
    assert len(pictures(page)) == 2
    told = json.loads(capsys.readouterr().out)
    assert [(one["key"], one["page"], one["score"]) for one in told["pages"]] == [
        ("second.pdf", 1, 0.19),
        ("first.pdf", 1, 0.2),
    ]
    assert (told["run_id"], told["left_out"], told["without_picture"]) == (RUN_ID, 0, 0)


def test_on_s3(tmp_path: Path, moto_s3: MotoS3) -> None:
    base = moto_s3.new_bucket()
    runs, source, output = (open_store(f"{base}/{name}", writable=True) for name in ("md/_runs", "pdfs", "md"))
    reviewed_run(runs, source, output, {0: "a b.pdf"})
    page = write(runs, output, tmp_path / "review.html")
    assert len(pictures(page)) == 3
    assert "https://console.aws.amazon.com/s3/object/" in page


def test_a_hostile_document_is_text_and_nothing_else(tmp_path: Path) -> None:
    runs, source, output = stores(tmp_path)
    name = "\"><img src=x onerror=alert(1)>'<script>.pdf"
    reviewed_run(runs, source, output, {0: name}, text="\n".join(HOSTILE))
    page = write(runs, output, tmp_path / "review.html")
    found = Elements(page)
    assert not {"script", "base", "iframe", "object", "embed", "link", "form", "input", "b"} & set(found.tags)
    assert found.tags.count("style") == 1
    assert not [name for _, name, _ in found.attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith("data:image/jpeg;base64,") for tag, name, value in found.attributes if name == "src")
    for text in HOSTILE:
        assert text in found.text
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.replace("&#39;", "'") == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<body>")


def test_the_file_has_a_largest_size_and_says_what_is_left_out(tmp_path: Path) -> None:
    store = MemoryStore()
    records = [record(n, pages=1, trust=trust((1, n / 100))) for n in range(40)]
    for one in records:
        store.put(one.name, ("<&" * 5000).encode())
    worst = worst_pages(records, 40)
    rooms: list[int] = []

    def picture(one: Record, pages: list[int], room: int) -> tuple[dict[int, bytes | str], bool]:
        rooms.append(room)
        return {page: bytes(room) for page in pages}, True

    shown = shown_pages(worst, store, picture, Links(), 1_000_000)
    assert 0 < len(shown) < 40
    assert [one.number for one in shown] == list(range(1, len(shown) + 1))
    assert sum(len(one.image) + len(one.text) * 5 for one in shown) < 1_100_000
    assert set(rooms) == {int(1_000_000 * 9 / 16 / 40)}


# -- what is not there --------------------------------------------------------------------------------------------------


def test_a_document_that_is_gone_or_changed_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source, output = stores(tmp_path)
    run = WatchedRun(
        runs, 3, 1, keys={0: "gone.pdf", 1: "new.pdf", 2: "short.pdf"}, input=source.url, output=output.url
    )
    run.live(0)
    for index in range(3):
        run.record(0, index, pages=3, trust=trust((3, 0.1 * index)), source_sha256="0" * 64)
        output.put(f"{run.key(index)[:-4]}.md", markdown(3))
    run.flush()
    source.put("new.pdf", document())
    source.put("short.pdf", document(1))
    page = write(runs, output, tmp_path / "review.html")
    text = " ".join(Elements(page).text.split())
    assert "No picture: the PDF is not in the input any more" in text
    assert "The PDF was changed since it was converted." in text
    assert "No picture: the PDF has no such page any more" in text
    assert len(pictures(page)) == 1
    assert "2 of 3 pages without a picture" in capsys.readouterr().err


def test_without_the_input_there_are_no_pictures_and_another_place_can_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, source, output = stores(tmp_path)
    reviewed_run(runs, source, output, {0: "first.pdf"})
    (tmp_path / "in").rename(tmp_path / "moved")
    page = write(runs, output, tmp_path / "review.html")
    assert pictures(page) == []
    assert "Name where the PDFs are now with --input" in Elements(page).text
    assert "Without pictures" in capsys.readouterr().err
    assert len(pictures(write(runs, output, tmp_path / "review.html", source=str(tmp_path / "moved")))) == 3
    with pytest.raises(UsageError):
        write(runs, output, tmp_path / "review.html", source=str(tmp_path / "nowhere"))


def test_encrypted_documents_need_their_password(tmp_path: Path) -> None:
    runs, source, output = stores(tmp_path)
    reviewed_run(runs, source, output, {0: "first.pdf"})
    source.put("first.pdf", document(password="fog"))
    assert "a password is needed" in Elements(write(runs, output, tmp_path / "r.html")).text
    (tmp_path / "passwords").write_text("fog\n")
    assert len(pictures(write(runs, output, tmp_path / "r.html", password_file=str(tmp_path / "passwords")))) == 3


def test_nothing_to_review_is_one_line(tmp_path: Path) -> None:
    runs, source, output = stores(tmp_path)
    with pytest.raises(UsageError, match="there are no runs"):
        write(runs, output, tmp_path / "r.html")
    run = WatchedRun(runs, 1, 1, input=source.url, output=output.url)
    with pytest.raises(UsageError, match="has converted no document yet"):
        write(runs, output, tmp_path / "r.html")
    run.live(0)
    run.record(0, 0)
    run.flush()
    with pytest.raises(UsageError, match=r"has no scores.*--overwrite"):
        write(runs, output, tmp_path / "r.html")
    for most in (0, 501):
        with pytest.raises(UsageError, match="--worst"):
            write(runs, output, tmp_path / "r.html", most=most)
    for to in (tmp_path, tmp_path / "no" / "folder.html"):
        with pytest.raises(UsageError, match="--to"):
            write(runs, output, to)


def test_the_command_finds_run_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source, output = stores(tmp_path)
    reviewed_run(runs, source, output, {0: "first.pdf"})
    file = tmp_path / "page.html"
    arguments = ["review", str(tmp_path / "out"), "--run", RUN_ID, "--worst", "1", "--to", str(file)]
    assert app(arguments, result_action="return_value") == 0
    assert "written:" in capsys.readouterr().out
    assert file.read_text().startswith("<!doctype html>")
    with pytest.raises(UsageError, match="two runs"):
        app([*arguments, "--", "another"], result_action="return_value")


# -- the run's own report -----------------------------------------------------------------------------------------------


def test_the_report_names_documents_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source, output = stores(tmp_path)
    run = reviewed_run(runs, source, output, {0: "<b>bad.pdf", 1: "second.pdf"})
    found = Elements(html(run))
    assert "Documents to look at" in found.text
    assert "<b>bad.pdf" in found.text
    assert tell(runs, None, None, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)["doubtful"]
    assert [(one["key"], one["page"], one["worst"]) for one in told] == [
        ("second.pdf", 1, 0.19),
        ("<b>bad.pdf", 1, 0.2),
    ]
    assert "Documents to look at" not in html(WatchedRun(MemoryStore(), 2, 1))


def test_the_tally_keeps_few_documents_and_the_worst_of_them() -> None:
    tally = Tally(1000)
    for n in range(1000):
        tally.add(record(n, pages=1, trust=trust((1, (n * 7919 % 1000) / 1000))))
    assert [one.worst for one in tally.doubtful()] == [n / 1000 for n in range(DOUBTFUL)]
