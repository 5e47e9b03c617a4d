"""What the documentation shows runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pymupdf
import pytest

from deployments import reference
from tasks.engines.opening import open_document
from tasks.engines.protocol import EngineResult, Handover, Inspection, Limits, Page, Progress

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_engine_converts_a_sample(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/engines.md").read_text(), re.S)
    assert len(code.splitlines()) <= 30
    words = {
        "pymupdf": pymupdf,
        "open_document": open_document,
        "Path": Path,
        "EngineResult": EngineResult,
        "Handover": Handover,
        "Inspection": Inspection,
        "Limits": Limits,
        "Page": Page,
        "Progress": Progress,
    }
    exec(code, words)
    engine = words["Shouting"]()
    sample = ROOT / "samples/tides.pdf"
    seen: list[tuple[int, int]] = []
    kept: dict[int, str] = {}

    def progress(page: int, pages: int) -> None:
        seen.append((page, pages))

    result = engine.convert(sample, tmp_path, [], Limits(), progress, Handover({}, kept.__setitem__))
    assert engine.inspect(sample, [], Limits()).pages == len(result.pages)
    assert seen[-1] == (len(result.pages), len(result.pages))
    assert "TIDE" in result.pages[0].text
    seen.clear()
    assert engine.convert(sample, tmp_path, [], Limits(), progress, Handover(kept)) == result
    assert seen == []


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return reference.pages()


@pytest.mark.parametrize("name", ["commands", "flows", "settings", "records"])
def test_the_reference_is_that_of_the_code(made: dict[str, str], name: str) -> None:
    page = f"docs/reference/{name}.md"
    assert (ROOT / page).read_text() == made[page], "make reference"


def test_third_party_software_is_listed(made: dict[str, str]) -> None:
    # Where an extra is not installed, its packages are not known here.
    written = (ROOT / "THIRD_PARTY.md").read_text().splitlines()
    assert [line for line in made["THIRD_PARTY.md"].splitlines() if line not in written] == [], "make reference"


def test_nothing_goes_without_a_word(made: dict[str, str]) -> None:
    pages = made["docs/reference/flows.md"] + made["docs/reference/settings.md"]
    assert [line for line in pages.splitlines() if line.startswith("| `") and line.endswith("|  |")] == []


def test_every_link_of_the_docs_leads_somewhere() -> None:
    lost = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not target.startswith(("http://", "https://", "mailto:")) and not (page.parent / target).exists():
                lost.append(f"{page.name}: {target}")
    assert lost == []


def said_by_the_code() -> list[str]:
    """Every string in it, f-strings with \0 for what they fill in."""
    found = []
    for room in ("tasks", "deployments", "flows"):
        for module in ROOT.glob(f"{room}/**/*.py"):
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append(
                        "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_troubleshooting_quotes_what_is_said() -> None:
    rows = re.findall(r"^\| (.*?) \| ", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    quoted = [words for row in rows for words in re.findall(r"`([^`]+)`", row)]
    said = said_by_the_code()
    assert len(quoted) > 20
    assert [words for words in quoted if not any(words in text for text in said)] == []
