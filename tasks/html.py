"""`report.html` as one file that stands for itself: it loads nothing, runs nothing and sends nothing, and says so to the browser.

Everything that comes from documents is escaped by the template engine; the style sheet is named to the browser by its hash, so
that not even a style that got in would count.
"""

from __future__ import annotations

import base64
import hashlib
import time
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from tasks.charts import Span, money_chart, pages_chart, time_line
from tasks.fleet.money import duration
from tasks.page import Page

TEMPLATES = Path(__file__).with_name("templates")


def policy(style: str, *, images: bool = False) -> str:
    """The Content-Security-Policy of a page with this style sheet and nothing else but, with `images`, pictures within it."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    pictures = " img-src data:;" if images else ""
    return f"default-src 'none'; style-src 'sha256-{digest}';{pictures} base-uri 'none'; form-action 'none'"


def render(page: Page) -> str:
    """The file."""
    span = Span(page.begin, page.end)
    rows = [(row.name, row.lives) for row in page.spans]
    lost = [(number, at) for number, row in enumerate(page.spans) for at in row.lost]
    noticed = [(number, at) for number, row in enumerate(page.spans) for at in row.noticed]
    money = page.view.money
    amounts = []
    if money is not None:
        amounts = [("spent", money.spent)]
        if page.interrupted.usd:
            amounts.append(("interruptions", page.interrupted.usd))
        projected = None if page.view.over else money.projected
        amounts += [
            (name, usd)
            for name, usd in (("projected", projected), ("target", money.target), ("budget", money.budget))
            if usd is not None
        ]
    style = (TEMPLATES / "report.css").read_text()
    return template("report.html").render(
        page=page,
        view=page.view,
        style=Markup(style),  # noqa: S704 - a file of this project
        policy=policy(style),
        pages_chart=pages_chart(page.points, page.width, span) if page.points else None,
        time_line=time_line(rows, lost, noticed, span) if rows else None,
        money_chart=money_chart(amounts) if amounts else None,
        unit=span.unit,
    )


@cache
def template(name: str) -> Template:
    """A template of this project: everything that it is given is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["day"] = lambda at: time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    environment.filters["number"] = lambda value: f"{value:,}"
    return environment.get_template(name)
