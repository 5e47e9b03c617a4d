"""Opening a PDF, and the categories of what cannot be opened."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pymupdf
from pymupdf import mupdf

from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines.markdown import clean
from tasks.engines.protocol import Limits
from tasks.engines.wording import MUPDF_CODE, plain

HEADER = b"%PDF-"
HEADER_WITHIN = 1024
"""Bytes: readers accept junk before the header as far as this (PDF 1.7, implementation note 13 of appendix H)."""

DAMAGE = (RuntimeError, ValueError, mupdf.FzErrorBase)
"""What PyMuPDF raises on broken files: FileDataError is a RuntimeError, MuPDF's own errors are FzErrorBase."""

MOST_ATTACHED = 1_000
"""Names of embedded files that are listed."""
_MOST_NODES = 10_000
_LONGEST_NAME = 255

_Document: Any = pymupdf.Document


class Document(_Document):
    """A PDF without an outline: it can be endless, and the Markdown does not need it."""

    def get_toc(self, simple: bool = True) -> list[list[object]]:
        """Nothing."""
        return []


def forget() -> None:
    """Drop what MuPDF keeps of images and fonts, up to 256 MiB: of no use for another document."""
    pymupdf.TOOLS.store_shrink(100)


def check_header(pdf: Path) -> None:
    """Raises ConversionError (EMPTY, NOT_A_PDF) without parsing anything."""
    with pdf.open("rb") as file:
        head = file.read(HEADER_WITHIN + len(HEADER) - 1)
    if not head:
        raise _refusal(Category.EMPTY, "the file is empty: zero bytes")
    if HEADER not in head:
        raise _refusal(
            Category.NOT_A_PDF, f"not a PDF{_looks_like(head)} (no %PDF- in the first {HEADER_WITHIN} bytes)"
        )


def open_document(pdf: Path, passwords: list[str], limits: Limits) -> Document:
    """Open a PDF whose pages can be loaded.

    Raises ConversionError: EMPTY, NOT_A_PDF, ENCRYPTED, UNSUPPORTED_ENCRYPTION, DAMAGED, NO_PAGES, TOO_LARGE.
    """
    check_header(pdf)
    try:
        document = Document(str(pdf), filetype="pdf")
        if not document.is_pdf:
            raise _refusal(Category.NOT_A_PDF, "not a PDF: another format behind the first line of one")
        if document.needs_pass:
            _authenticate(document, passwords)
        pages = document.page_count
        repaired = document.is_repaired
    except DAMAGE as error:
        cause = reason(error)
        if "crypt" in _words(_deepest(error)).lower():
            raise _refusal(Category.UNSUPPORTED_ENCRYPTION, f"cannot be decrypted: {cause}") from error
        raise _refusal(Category.DAMAGED, f"cannot be opened: {cause}") from error
    if pages < 1:
        if repaired:
            raise _refusal(Category.DAMAGED, "broken (cut short, perhaps), and repairing it brought no page back")
        if not _has_page_tree(document):
            raise _refusal(Category.DAMAGED, "the list of its pages is missing")
        raise _refusal(Category.NO_PAGES, "the document has no page")
    if pages > limits.max_pages:
        raise _refusal(Category.TOO_LARGE, f"{pages} pages; the limit is {limits.max_pages}")
    return document


def reason(error: BaseException) -> str:
    """One line for a reader, in plain words with the library's own behind them (tasks/engines/wording.py).

    The deepest message counts: PyMuPDF wraps MuPDF's own, and its wrapper names a local path.
    """
    error = _deepest(error)
    words = _words(error)
    mupdfs = isinstance(error, (pymupdf.FileDataError, mupdf.FzErrorBase)) or MUPDF_CODE.match(words)
    return plain(words, None if mupdfs else type(error).__name__)


def _deepest(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _words(error: BaseException) -> str:
    return " ".join(clean(str(error)).split())


def _has_page_tree(document: Document) -> bool:
    try:
        return document.xref_get_key(document.pdf_catalog(), "Pages")[0] in ("xref", "dict")
    except DAMAGE:
        return False


def attachments(document: Document) -> list[str]:
    """The names of the files that are embedded in a document, in its own order; none where its list of them is broken.

    Lists that lead in a circle, or are absurdly long, end.
    """
    found: list[str] = []
    try:
        pdf = mupdf.pdf_document_from_fz_document(document.this)
        root = mupdf.pdf_dict_gets(mupdf.pdf_trailer(pdf), "Root")
        waiting = [mupdf.pdf_dict_gets(mupdf.pdf_dict_gets(root, "Names"), "EmbeddedFiles")]
    except DAMAGE:
        return []
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_NODES and len(found) < MOST_ATTACHED:
        node = waiting.pop()
        try:
            number = mupdf.pdf_to_num(node)
            if number and number in seen:
                continue
            seen.add(number or -len(seen) - 1)
            names, kids = mupdf.pdf_dict_gets(node, "Names"), mupdf.pdf_dict_gets(node, "Kids")
            for index in range(0, min(mupdf.pdf_array_len(names), 2 * MOST_ATTACHED) - 1, 2):
                key = mupdf.pdf_to_text_string(mupdf.pdf_array_get(names, index))
                found.append(file_name(mupdf.pdf_array_get(names, index + 1)) or clean(key))
            few = min(mupdf.pdf_array_len(kids), _MOST_NODES - len(waiting))
            waiting += reversed([mupdf.pdf_array_get(kids, index) for index in range(few)])
        except DAMAGE:
            continue
    return found[:MOST_ATTACHED]


def file_name(specification: Any) -> str:
    """What a file specification says the file is called: one line, cut where it is absurdly long. Raises DAMAGE."""
    for key in ("UF", "F"):
        if name := mupdf.pdf_to_text_string(mupdf.pdf_dict_gets(specification, key)):
            break
    else:
        name = mupdf.pdf_to_text_string(specification) if mupdf.pdf_is_string(specification) else ""
    return " ".join(clean(name).split())[:_LONGEST_NAME]


def _authenticate(document: Document, passwords: list[str]) -> None:
    for password in passwords:
        # Revision 6 hashes the SASLprep form, which NFKC gives for all but exotic passwords.
        for form in dict.fromkeys((password, unicodedata.normalize("NFKC", password))):
            if document.authenticate(form):
                return
    tried = f"none of the {len(passwords)} given fits" if passwords else "none is given"
    raise _refusal(Category.ENCRYPTED, f"a password is needed and {tried}")


def _refusal(category: Category, message: str) -> ConversionError:
    return ConversionError.of(category, Phase.OPEN, message)


def _looks_like(head: bytes) -> str:
    start = head.lstrip()[:16].lower()
    for magic, name in (
        (b"\x89png", "a PNG image"),
        (b"pk\x03\x04", "a ZIP archive or an office document"),
        (b"<!doctype html", "an HTML page"),
        (b"<html", "an HTML page"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"gif8", "a GIF image"),
        (b"\xd0\xcf\x11\xe0", "an old office document"),
        (b"{\\rtf", "an RTF document"),
        (b"%!ps", "PostScript"),
        (b"<?xml", "XML"),
    ):
        if start.startswith(magic):
            return f": it looks like {name}"
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    return ": it looks like plain text" if printable == len(head) else ""
