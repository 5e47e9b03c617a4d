"""Clean Markdown: what upstream loses or breaks is kept."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engines.dolphin.grammar import Generation
from tasks.engines.dolphin.markdown_clean import convert, join_lines, latex, table
from tasks.engines.dolphin.markdown_upstream import convert as upstream

COMMANDS = [
    r"\cdots",
    r"\leqslant",
    r"\multicolumn",
    r"\pmod",
    r"\bmod",
    r"\muskip",
    r"\langlet",
    r"\quadri",
    r"\upmux",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_replaced_whole(command: str) -> None:
    assert convert([("para", f"a ${command}{{x}}$ b")]) == f"a ${command}{{x}}$ b"
    assert convert([("equ", f"$${command} x$$")]) == f"$${command} x$$"


def test_upstream_breaks_them() -> None:
    """The other mode keeps the defect; this test is what tells the two apart."""
    assert upstream([("para", r"\cdots \bmod")], Generation.V1_5) == "\\cdot s \\mathbf od\n\n"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\bm{x}", r"\mathbf{x}"),
        (r"\upmu m", r"\mu m"),
        (r"\varmathbb{R}", r"\mathbb{R}"),
        (r"\in fty", r"\infty"),
        (r"x = 1 \eqno{(3)}", r"x = 1 \tag{3}"),
        (r"x = 1 \eqno (3)", r"x = 1 \tag{3}"),
        (r"x \eqno y", r"x \quad y"),
    ],
)
def test_latex_that_no_renderer_knows(written: str, read: str) -> None:
    assert latex(written) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<table><tr><td>a</td></tr></table>", "<table><tr><td>a</td></tr></table>"),
        ('<table border="1"><tr><td>a</td></tr></table>', "<table><tr><td>a</td></tr></table>"),
        ("<table><tr><td>a</td><td>b", "<table><tr><td>a</td><td>b</td></tr></table>"),
        ("<table><tr><td>a</td></tr><tr", "<table><tr><td>a</td></tr></table>"),
        ("<table><tr><td>a</td></", "<table><tr><td>a</td></tr></table>"),
        ("<tr><td>a</td></tr>", "<table><tr><td>a</td></tr></table>"),
        ("<table><tr><td>p < 5", "<table><tr><td>p < 5</td></tr></table>"),
        ("no table\nat all", "no table at all"),
    ],
)
def test_tables_are_closed_and_kept(written: str, read: str) -> None:
    assert table(written) == read


@given(st.integers(0, 80))
def test_a_table_cut_anywhere_is_balanced_and_keeps_its_cells(cut: int) -> None:
    whole = "<table><tr><td>Year</td><td>Pages</td></tr><tr><td>2023</td></tr></table>"
    read = table(whole[:cut])
    for tag in ("table", "tr", "td"):
        assert read.count(f"<{tag}>") == read.count(f"</{tag}>")
    for cell in re.findall(r"<td>([^<]*)</td>", whole[:cut]):
        assert cell in read


def test_headings_keep_their_levels() -> None:
    elements = [(f"sec_{level}", "T") for level in range(6)]
    assert convert(elements).split("\n\n") == ["# T", "## T", "### T", "#### T", "##### T", "###### T"]
    old = [(label, "T") for label in ("title", "sec", "sub_sec", "sub_sub_sec")]
    assert convert(old).split("\n\n") == ["# T", "## T", "### T", "#### T"]


def test_lists_end_and_references_stay() -> None:
    elements = [("list", "one"), ("list", "- two\nmore"), ("para", "after"), ("reference", "[1] A. Author")]
    assert convert(elements) == "- one\n- two\n  more\n\nafter\n\n[1] A. Author"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("stages of informa-\ntion", "stages of information"),
        ("the Navier-\nStokes", "the Navier-Stokes"),
        ("1990-\n1995", "1990- 1995"),
        ("a\n\nb\nc", "a\n\nb c"),
        ("\u4e2d\n\u6587\nand", "\u4e2d\u6587 and"),
    ],
)
def test_lines_are_joined(written: str, read: str) -> None:
    assert join_lines(written) == read


def test_code_is_fenced_by_what_it_cannot_end() -> None:
    assert convert([("code", "x = 1\ny")]) == "```\nx = 1\ny\n```"
    assert convert([("code", "```py\nx\n```")]) == "````\n```py\nx\n```\n````"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("$$E = mc^{2}$$", "$$E = mc^{2}$$"),
        ("E = mc^{2} \\\\ ", "$$E = mc^{2}$$"),
        ("\\[a\\]", "$$a$$"),
        ("$$a\nb$$", "$$\na\nb\n$$"),
        ("$a$ and $b$", "$a$ and $b$"),
    ],
)
def test_formulas(written: str, read: str) -> None:
    assert convert([("equ", written)]) == convert([("formula", written)]) == read


def test_marginalia_are_optional() -> None:
    elements = [("header", "Journal"), ("para", "text"), ("foot", "1")]
    assert convert(elements) == "Journal\n\ntext\n\n1"
    assert convert(elements, marginalia=False) == "text"


@given(st.lists(st.tuples(st.sampled_from(["para", "tab", "equ", "list", "code", "sec_1", "fig", "x"]), st.text())))
def test_any_text_is_taken(elements: list[tuple[str, str]]) -> None:
    read = convert(elements)
    for _, text in elements:
        for word in re.findall(r"[a-z]{3,}", text):
            assert word in read
