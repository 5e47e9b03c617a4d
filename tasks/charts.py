"""The report's charts, drawn by pygal as static SVG. Their style is the page's: they hold no script and no style of their own."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import cache
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 480, 250
ROW_PIXELS = 14
"""Of a worker in the time line."""
TICKS = 6
_USELESS = {"comment", "defs", "script", "style", "desc", "title"}
_UNSEEN = {"tooltip", "text-overlay", "tooltip-overlay"}
"""Elements and classes that a page without scripts and foreign styles has no use for."""


class Span:
    """A span of time, and the unit in which its axis counts."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin, self.end = begin, max(end, begin + 1.0)
        units = (("s", 1.0, 180.0), ("min", 60.0, 10_800.0), ("h", 3600.0, 259_200.0))
        self.unit, self._length = next(
            ((u, length) for u, length, to in units if self.end - begin <= to), ("days", 86_400.0)
        )

    def of(self, at: float) -> float:
        """A time of day, in the axis' unit."""
        return (at - self.begin) / self._length

    @property
    def length(self) -> float:
        """Of all of it, in the axis' unit."""
        return self.of(self.end)


def pages_chart(points: Sequence[tuple[float, float]], width: float, span: Span) -> Markup:
    """Pages a second by time.

    Args:
        points: begin of each bucket, and its rate.
        width: seconds of a bucket.
    """
    steps: list[tuple[float, float]] = []
    for at, rate in points:
        steps += [(span.of(at), rate), (span.of(at + width), rate)]
    clipped = [(min(max(x, 0.0), span.length), round(y, 4)) for x, y in steps]
    top = max((y for _, y in clipped), default=0.0)
    chart = _xy(span, fill=True, show_dots=False, y_labels=_marks(top), range=(0, top or 1.0))
    chart.value_formatter = lambda value: f"{value:g}"
    chart.add("pages/s", clipped)
    return _svg(chart, "pages", f"Pages a second by time, in {span.unit} since the start")


def time_line(
    rows: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    lost: Sequence[tuple[int, float]],
    noticed: Sequence[tuple[int, float]],
    span: Span,
) -> Markup:
    """A line a worker while it lived, and a mark where it was interrupted.

    Args:
        rows: name of each worker, and begin and end of its lives; the first at the top.
        lost: row and time of lives that ended without a word.
        noticed: row and time of machines that were announced to go.
    """
    count = len(rows)
    lines: list[Any] = []
    for row, (_, lives) in enumerate(rows):
        for begin, end in lives:
            lines += [(span.of(begin), count - row), (span.of(end), count - row), None]
    labels = [{"label": name, "value": count - row} for row, (name, _) in enumerate(rows)]
    if count > 12:
        labels = labels[:: (count + 11) // 12]
    chart = _xy(
        span,
        height=max(HEIGHT, 60 + ROW_PIXELS * count),
        show_dots=False,
        allow_interruptions=True,
        y_labels=labels,
        range=(0.3, count + 0.7),
    )
    chart.add("lives", lines or [None])
    for name, marks in (("lost", lost), ("notice", noticed)):
        dots: list[Any] = [(span.of(at), count - row) for row, at in marks]
        chart.add(name, dots or [None], stroke=False, show_dots=True, dots_size=5)
    return _svg(chart, "lives", f"Lives of workers by time, in {span.unit} since the start")


def money_chart(amounts: Sequence[tuple[str, float]]) -> Markup:
    """USD amounts side by side: spent, projected, target, budget."""
    import pygal

    amounts = [(name, round(usd, 4)) for name, usd in amounts]
    top = max((usd for _, usd in amounts), default=0.0)
    chart = pygal.HorizontalBar(**_common(), height=60 + 44 * len(amounts), y_labels=_marks(top), range=(0, top or 1.0))
    chart.value_formatter = lambda value: f"${value:,.2f}" if top < 10 else f"${value:,.0f}"
    # Bars are drawn from the bottom up.
    chart.x_labels = [f"{name} ${usd:,.2f}" for name, usd in reversed(amounts)]
    chart.add("USD", [usd for _, usd in reversed(amounts)])
    return _svg(chart, "money", "USD spent, projected and allowed")


def _xy(span: Span, *, height: int = HEIGHT, **more: Any) -> Any:
    import pygal

    chart = pygal.XY(
        **_common(), height=height, x_labels=_marks(span.length), x_title=span.unit, xrange=(0, span.length), **more
    )
    chart.x_value_formatter = lambda value: f"{value:g}"
    return chart


def _common() -> dict[str, Any]:
    return {
        "width": WIDTH,
        "style": _style(),
        "js": [],
        "no_prefix": True,
        "show_legend": False,
        "margin": 8,
        "margin_right": 24,
        "disable_xml_declaration": True,
    }


@cache
def _style() -> Any:
    from pygal.style import Style

    # For measuring labels only: the page's style sheet says what is drawn.
    return Style(label_font_size=13, major_label_font_size=13, title_font_size=13, value_font_size=13)


def _marks(top: float) -> list[float]:
    """Round numbers from 0 to `top`, some six of them."""
    if top <= 0:
        return [0.0]
    magnitude = 10.0 ** len(str(int(top)))
    steps = (
        magnitude * part for size in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0) for part in (size, 2 * size, 5 * size)
    )
    step = next(step for step in steps if top / step <= TICKS)
    return [round(number * step, 9) for number in range(int(top / step + 1e-9) + 1)]


def _svg(chart: Any, kind: str, label: str) -> Markup:
    """The chart as markup."""
    root = chart.render_tree()
    for parent in list(root.iter()):
        for child in list(parent):
            name = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else "comment"
            if name in _USELESS or not _UNSEEN.isdisjoint(child.get("class", "").split()):
                parent.remove(child)
    for node in root.iter():
        node.attrib.pop("id", None)
    root.set("class", f"chart {kind}")
    root.set("role", "img")
    root.set("aria-label", label)
    ET.register_namespace("", "http://www.w3.org/2000/svg")
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - made of numbers and our own words, escaped by ElementTree
