"""Pages of the Prefect UI as a person uses them, in the system's Chromium, and a `pdf-flows up` to serve them.

The UI is Prefect's (3.8, the one at `/`); its class names stand here and nowhere else.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
SIZE = (1400, 900)
LOOK_SECONDS = 60.0
"""How long a page may take to show what it is expected to, on a loaded machine."""
START_SECONDS = 180.0
RUN_SECONDS = 300.0


class NoBrowser(RuntimeError):
    """There is no Chromium on this machine."""


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page in the system's Chromium, headless, with a fresh profile in the folder `profile`."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        raise NoBrowser("no Chromium on this machine: install it (Debian, Ubuntu: apt-get install chromium)")
    expect.set_options(timeout=LOOK_SECONDS * 1000)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=found,
            headless=True,
            args=list(ARGUMENTS),
            viewport={"width": SIZE[0], "height": SIZE[1]},
            timeout=LOOK_SECONDS * 1000,
        )
        context.set_default_timeout(LOOK_SECONDS * 1000)
        try:
            yield context.pages[0]
        finally:
            context.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the UI of a `pdf-flows up` that keeps all it has below `folder`, which is its HOME, too."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "PDF_FLOWS"))}
    environment = kept | {
        "HOME": str(folder),
        "PDF_FLOWS_HOME": str(folder / "home"),
        "PDF_FLOWS_SERVER_LINGER": "1",
    }
    said = folder / "up.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("pdf-flows")), "up"],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield _address(process, said)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        finally:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], said: Path) -> str:
    """What `up` says once everything is deployed."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if (found := re.search(r"^Open (http://[^/]+)/deployments", said.read_text(), re.MULTILINE)) is not None:
            return found.group(1)
        time.sleep(0.2)
    raise AssertionError(f"pdf-flows up does not serve: {said.read_text()}")


@dataclass(frozen=True)
class Field:
    """A parameter in the form of a deployment."""

    box: Locator

    @property
    def label(self) -> str:
        """The parameter's name, with `(Optional)` where it need not be given."""
        return self.box.locator(".schema-form-property__label").first.inner_text()

    @property
    def description(self) -> str:
        """What stands below the name."""
        return self.box.locator(".schema-form-property__description").inner_text().strip()

    @property
    def control(self) -> Locator:
        """Where a value is typed."""
        return self.box.locator("textarea, input").first

    def fill(self, value: str) -> None:
        """Type the value."""
        self.control.fill(value)

    def switch_off(self) -> None:
        """Flip a switch that is on."""
        switch = self.box.get_by_role("switch")
        expect(switch).to_be_checked()
        switch.click()
        expect(switch).not_to_be_checked()

    @property
    def chosen(self) -> str:
        """What a select shows as chosen."""
        return self.box.locator(".p-select-button__value").inner_text().strip()

    def choices(self) -> list[str]:
        """What a select offers; closes it again."""
        options = self._options()
        texts = [text.strip() for text in options.all_inner_texts()]
        self.box.page.keyboard.press("Escape")
        expect(options).to_have_count(0)
        return texts

    def choose(self, value: str) -> None:
        """Choose the value in a select."""
        self._options().get_by_text(value, exact=True).click()
        expect(self.box.locator(".p-select-button__value")).to_have_text(value)

    def _options(self) -> Locator:
        # By keyboard: a click opens and closes it at once where there is no window.
        self.box.locator(".p-select-button__control").press("ArrowDown")
        options = self.box.page.locator(".p-select-option[role=option]")
        expect(options.first).to_be_visible()
        return options


@dataclass(frozen=True)
class RunForm:
    """Deployments > a deployment > Run > Custom run."""

    page: Page

    @classmethod
    def open(cls, page: Page, address: str, deployment: str) -> RunForm:
        """Go there by what a person clicks."""
        page.goto(f"{address}/deployments")
        page.locator("a[href*='/deployments/deployment/']").get_by_text(deployment, exact=True).first.click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Custom run", exact=True).click()
        form = cls(page)
        expect(page.locator(".schema-form-property").first).to_be_visible()
        return form

    def fields(self) -> dict[str, Field]:
        """All of them, by the parameter's name."""
        found = [Field(box) for box in self.page.locator(".schema-form-property").all()]
        return {field.label.removesuffix(" (Optional)"): field for field in found}

    def field(self, name: str) -> Field:
        """One of them."""
        label = self.page.locator(".schema-form-property__label").get_by_text(
            re.compile(rf"^{re.escape(name)}( \(Optional\))?$")
        )
        return Field(self.page.locator(".schema-form-property").filter(has=label))

    def submit(self) -> None:
        """Press the button."""
        self.page.get_by_role("button", name="Submit", exact=True).click()

    def start(self) -> RunPage:
        """Submit, and go to the run that the server made of it."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as answered:
            self.submit()
        assert answered.value.status == 201, answered.value.text()
        address = urljoin(self.page.url, f"/runs/flow-run/{answered.value.json()['id']}")
        # Where the form leads; leaving before that would be undone.
        self.page.wait_for_url("**/deployments/deployment/*tab=Runs*")
        run = RunPage(self.page, address)
        run.open()
        return run


@dataclass(frozen=True)
class RunPage:
    """A flow run."""

    page: Page
    address: str

    @property
    def state(self) -> Locator:
        """The badge that names the state."""
        return self.page.locator(".page-heading-flow-run .state-badge").first

    @property
    def name(self) -> Locator:
        """The run's name, in the heading."""
        return self.page.locator(".page-heading-flow-run .p-bread-crumbs__crumb").last

    @property
    def tags(self) -> list[str]:
        """The run's tags, in the heading."""
        found = self.page.locator(".page-heading-flow-run .p-tag-wrapper__tag .p-tag").all_inner_texts()
        return [text.strip() for text in found]

    def open(self, tab: str | None = None) -> None:
        """(Re)load the page, and show a tab: Logs, Task Runs, Subflow Runs, Artifacts, Details, Parameters."""
        self.page.goto(self.address)
        expect(self.state).to_be_visible()
        if tab is not None:
            self.show(tab)

    def show(self, tab: str) -> None:
        """Show a tab of the page that is open."""
        self.page.locator(".p-tab-navigation, .p-tabs__tabs, [class*=tab]").get_by_text(tab, exact=True).first.click()

    def wait(self, *states: str) -> str:
        """Wait until the badge names one of these states, alone or with a cause; returns it. The page follows by itself."""
        some = re.compile("|".join(rf"^\s*{re.escape(state)}(: .+)?\s*$" for state in states))
        expect(self.state).to_have_text(some, timeout=RUN_SECONDS * 1000)
        return self.state.inner_text().strip()

    def logs(self) -> list[str]:
        """All lines, oldest first."""
        self.open("Logs")
        expect(self.page.get_by_text("Finished in state").first).to_be_visible()
        return self.page.locator(".log-row").all_inner_texts()

    def children(self, count: int, *said: str) -> dict[str, str]:
        """Names of the child runs, and the text of each one's entry, once there are so many and each says all of `said`."""
        self.open("Subflow Runs")
        entries = self.page.locator(".flow-run-list-item")
        expect(entries).to_have_count(count)
        for entry in entries.all():
            # An entry comes in pieces: its pool and its tags are requests of their own.
            for text in said:
                expect(entry).to_contain_text(text)
        name = ".flow-run-bread-crumbs__flow-run-link"
        return {entry.locator(name).inner_text().strip(): entry.inner_text() for entry in entries.all()}

    def child(self, name: str) -> RunPage:
        """Go to a child run by its link."""
        self.open("Subflow Runs")
        self.page.get_by_role("link", name=name, exact=True).first.click()
        expect(self.name).to_have_text(name)
        return RunPage(self.page, self.page.url.split("?")[0])

    def card(self, key: str) -> Locator:
        """What an artifact's card says, on the tab Artifacts that is shown."""
        card = self.page.locator(".artifact-card").filter(has=self.page.get_by_text(key, exact=True))
        return card.locator(".artifact-card__description-container").first

    def task_runs(self) -> dict[str, str]:
        """Names of the task runs, and each one's state."""
        self.open("Task Runs")
        entries = self.page.locator(".task-run-list-item")
        expect(entries.first).to_be_visible()
        return {
            entry.get_by_role("link").first.inner_text().strip(): entry.locator(".state-badge").inner_text().strip()
            for entry in entries.all()
        }

    def artifact(self, key: str) -> Artifact:
        """Go to an artifact by its card."""
        self.open("Artifacts")
        self.page.locator(".artifact-card").get_by_text(key, exact=True).first.click()
        self.page.wait_for_url("**/artifacts/artifact/*")
        expect(self.page.get_by_text("Show raw data")).to_be_visible()
        return Artifact(self.page)


@dataclass(frozen=True)
class Artifact:
    """An artifact that is open."""

    page: Page

    def table(self) -> list[dict[str, str]]:
        """Its (first) table, a row a dict."""
        table = self.page.locator("table").first
        expect(table.locator("td").first).to_be_visible()
        names = [text.strip() for text in table.locator("th").all_inner_texts()]
        rows = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
        return [dict(zip(names, (cell.strip() for cell in row), strict=True)) for row in rows]

    def text(self) -> str:
        """All that is shown."""
        return self.page.locator("main, #app").first.inner_text()

    def follow(self, name: str, row: str | None = None) -> Page:
        """The page, a new one, that a link leads to.

        Args:
            row: a text of the table's row in which the link stands.
        """
        place = self.page if row is None else self.page.locator("table tr").filter(has_text=row)
        with self.page.expect_popup() as opened:
            place.get_by_role("link", name=name, exact=True).click()
        page: Page = opened.value
        return page


@dataclass(frozen=True)
class TaskRunPage:
    """A task run that is open."""

    page: Page

    @property
    def name(self) -> Locator:
        """Its name, in the heading."""
        return self.page.locator(".page-heading-task-run .p-bread-crumbs__crumb").last

    @property
    def state(self) -> Locator:
        """The badge that names its state."""
        return self.page.locator(".page-heading-task-run .state-badge").first


@dataclass(frozen=True)
class Search:
    """The search boxes of the pages Runs and Artifacts."""

    page: Page
    address: str

    def flow_runs(self, words: str, count: int) -> list[str]:
        """Names of the flow runs that are found, once there are so many."""
        self.page.goto(f"{self.address}/runs")
        self._type("Search by flow run name", words)
        entries = self.page.locator(".flow-run-list-item")
        expect(entries).to_have_count(count)
        return [text.strip() for text in entries.locator(".flow-run-bread-crumbs__flow-run-link").all_inner_texts()]

    def task_runs(self, words: str, count: int) -> Locator:
        """Links to the task runs that are found, once there are so many."""
        self.page.goto(f"{self.address}/runs")
        self.page.get_by_role("tab", name="Task runs").click()
        self._type("Search by task run name", words)
        entries = self.page.locator(".task-run-list-item")
        expect(entries).to_have_count(count)
        return entries.locator(".task-run-list-item__breadcrumbs a").last

    def artifacts(self, words: str, count: int) -> Locator:
        """Cards of the artifacts that are found, once there are so many."""
        self.page.goto(f"{self.address}/artifacts")
        self._type("Search artifacts", words)
        cards = self.page.locator(".artifact-card")
        expect(cards).to_have_count(count)
        return cards

    def _type(self, box: str, words: str) -> None:
        # The page's filters, which are folded away, may have one like it.
        self.page.get_by_placeholder(box).last.fill(words)
