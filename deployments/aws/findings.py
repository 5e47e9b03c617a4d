"""What a check found, and the table of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class State(StrEnum):
    """How a check went."""

    OK = "OK"
    WARN = "WARN"
    """Goes, with something to know."""
    FAIL = "FAIL"
    """The planned run would not go as it should."""
    SKIPPED = "SKIPPED"
    """Not looked at: what it needs is missing."""


class Finding(BaseModel):
    """One check's."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: State
    words: str
    """What was found: one line with its figures."""
    remedy: str = ""
    """What to do about it; "" where there is nothing to do."""

    @classmethod
    def ok(cls, name: str, words: str, remedy: str = "") -> Finding:
        """All is as it should be."""
        return cls(name=name, state=State.OK, words=words, remedy=remedy)

    @classmethod
    def warn(cls, name: str, words: str, remedy: str = "") -> Finding:
        """Something to know."""
        return cls(name=name, state=State.WARN, words=words, remedy=remedy)

    @classmethod
    def fail(cls, name: str, words: str, remedy: str) -> Finding:
        """Something to mend first."""
        return cls(name=name, state=State.FAIL, words=words, remedy=remedy)

    @classmethod
    def skipped(cls, name: str, words: str, remedy: str = "") -> Finding:
        """Not looked at."""
        return cls(name=name, state=State.SKIPPED, words=words, remedy=remedy)


def refused(findings: Sequence[Finding]) -> bool:
    """Whether something has to be mended first."""
    return any(finding.state is State.FAIL for finding in findings)


def verdict(findings: Sequence[Finding]) -> str:
    """The last line: how many of each, and what it means."""
    count = {state: sum(finding.state is state for finding in findings) for state in State}
    shown = ", ".join(f"{number} {state}" for state, number in count.items() if number)
    return f"{shown}: " + ("mend what failed first" if refused(findings) else "ready")


_COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red", State.SKIPPED: "dim"}

PIPED_WIDTH = 200
"""Of a table that is no terminal's: whoever searches it finds whole sentences."""


def table(findings: Sequence[Finding], width: int | None = None) -> str:
    """All findings for a terminal `width` columns wide (None: this one's); colours only where it shows them."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for heading in ("state", "check", "found", "to do"):
        shown.add_column(heading, overflow="fold", no_wrap=heading in ("state", "check"))
    for finding in findings:
        state = Text(finding.state.value, style=_COLOURS[finding.state])
        # Text, not markup: AWS's own words may hold brackets.
        shown.add_row(state, finding.name, Text(finding.words), Text(finding.remedy))
    if width is None and not sys.stdout.isatty():
        width = PIPED_WIDTH
    console = Console(width=width, file=sys.stdout, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
