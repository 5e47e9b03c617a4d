"""The failure taxonomy: why a document did not become Markdown, as a record that retry policy can read.

Policy reads :class:`Failure` (category, phase, retryable), never an exception's text. The exceptions at the end are the
project's whole exception tree; anything else that escapes is a bug.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError


class Category(StrEnum):
    """Why a document failed. Small on purpose; `docs/failures.md` says what to do about each."""

    NOT_A_PDF = "NOT_A_PDF"
    """Another format under the name `.pdf` (HTML, PNG, ZIP, noise)."""
    EMPTY = "EMPTY"
    """Zero bytes."""
    ENCRYPTED = "ENCRYPTED"
    """A password is needed and none given fits."""
    UNSUPPORTED_ENCRYPTION = "UNSUPPORTED_ENCRYPTION"
    """Encrypted by a security handler that no library here knows."""
    DAMAGED = "DAMAGED"
    """A PDF, but beyond the repair that the library attempts."""
    NO_PAGES = "NO_PAGES"
    """Opens, and has no page."""
    NO_TEXT = "NO_TEXT"
    """Pages have text, and the engine returned none."""
    TOO_LARGE = "TOO_LARGE"
    """Over the limit on bytes, pages or pixels."""
    TIMEOUT = "TIMEOUT"
    """Over the page's or the document's time limit; the sandbox child was killed."""
    MEMORY = "MEMORY"
    """Over the sandbox's memory limit."""
    CRASHED = "CRASHED"
    """The sandbox child died (signal or exit) without a word."""
    ENGINE = "ENGINE"
    """The engine raised an error of its own on this document."""
    NAME = "NAME"
    """The document's name cannot be supported (not UTF-8)."""
    MISSING = "MISSING"
    """Listed, but gone (or a dangling link) when it was fetched."""
    CHANGED = "CHANGED"
    """Not the version that the manifest froze."""
    FORBIDDEN = "FORBIDDEN"
    """The store refuses to let us read or write it."""
    BLOCKED = "BLOCKED"
    """Something that is no output of ours lies where the document's output goes."""
    STORE = "STORE"
    """The store failed (5xx, throttling, I/O error, connection) longer than the retries lasted."""
    DISK_FULL = "DISK_FULL"
    """No space (or quota) left where the outputs or the local copies go."""

    @property
    def systemic(self) -> bool:
        """True where the cause is the surroundings and not the document: what the run's breaker watches."""
        return self in _SYSTEMIC

    @property
    def transient(self) -> bool:
        """Whether trying again can help, unless the failure's own evidence says otherwise."""
        return self in _TRANSIENT


_SYSTEMIC = frozenset({Category.STORE, Category.DISK_FULL, Category.FORBIDDEN, Category.ENGINE, Category.CRASHED})
_TRANSIENT = frozenset(
    {
        Category.STORE,
        Category.DISK_FULL,
        Category.FORBIDDEN,
        Category.CRASHED,
        Category.TIMEOUT,
        Category.MEMORY,
    }
)


class Phase(StrEnum):
    """Where in a document's way it failed."""

    PLAN = "plan"
    FETCH = "fetch"
    OPEN = "open"
    CONVERT = "convert"
    PUBLISH = "publish"


class Failure(BaseModel):
    """One failure record: safe to show (no secret, no path of this machine), and all that retry policy reads."""

    model_config = ConfigDict(frozen=True)

    category: Category
    phase: Phase
    message: str
    retryable: bool
    attempts: int = 1
    page: int | None = None
    """1-based page in hand, where one was."""


class PdfFlowsError(Exception):
    """Root of the project's exceptions."""


class UsageError(PdfFlowsError):
    """Bad usage or input. The message is one line that names the thing and the remedy; the exit status is 2."""


class StoreError(PdfFlowsError):
    """The store failed for good (after its own retries).

    Attributes:
        category: STORE, FORBIDDEN or DISK_FULL.
    """

    def __init__(self, message: str, category: Category = Category.STORE) -> None:
        super().__init__(message)
        self.category = category


class Unreadable(StoreError):
    """An object of the run's own state is there and makes no sense: cut short, or overwritten by something else."""


class NotFound(StoreError):
    """No such object."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no such object: {key!r}", Category.MISSING)


class ConversionError(PdfFlowsError):
    """A document could not be converted; carries the record."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.category}: {failure.message}")
        self.failure = failure

    @classmethod
    def of(
        cls, category: Category, phase: Phase, message: str, *, retryable: bool | None = None, page: int | None = None
    ) -> ConversionError:
        """The error for a category, retryable as the category is unless the evidence at hand says otherwise."""
        return cls(
            Failure(
                category=category,
                phase=phase,
                message=message,
                retryable=category.transient if retryable is None else retryable,
                page=page,
            )
        )


class Fenced(PdfFlowsError):
    """This life of the worker may not publish any more: the supervisor (or a successor) fenced it."""


class Stopped(PdfFlowsError):
    """The run was stopped before its end (breaker, drain, signal); it can be resumed. The message names the cause."""


def bad_field(error: ValidationError) -> tuple[str, str]:
    """The first setting that is bad ("" where no single one is), and what is wrong with it: for a UsageError's line."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), f"{first['msg']} (given: {first['input']!r})"
