"""The run that preflight is asked about: how much there is to do, on how many machines, for how much, until when."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deployments.aws.rates import GPUS, PAGES_PER_DOCUMENT
from tasks.corpus.failures import UsageError, bad_field
from tasks.fleet.budget import parse_duration, parse_usd
from tasks.options import MACHINE_TYPES

MOST = 10**12
"""Documents or pages: beyond it figures are typing errors, and no float any more."""
SLOWEST, FASTEST = 1e-6, 10_000.0
"""Pages a second that anybody means."""


class PlannedRun(BaseModel):
    """What is asked about."""

    model_config = ConfigDict(frozen=True)

    workers: int = Field(5, ge=1, le=1000)
    types: tuple[str, ...] = Field(MACHINE_TYPES, min_length=1)
    """EC2 instance types that may be started."""
    documents: int | None = Field(None, ge=0, le=MOST)
    pages: int | None = Field(None, ge=0, le=MOST)
    """None: documents times `pages_per_document`."""
    pages_per_document: float = Field(PAGES_PER_DOCUMENT, gt=0, le=1_000_000)
    budget: float | None = Field(100.0, gt=0, allow_inf_nan=False)
    """USD."""
    deadline: float | None = Field(48 * 3600.0, gt=0, allow_inf_nan=False)
    """Seconds."""
    max_price: float | None = Field(None, gt=0, allow_inf_nan=False)
    """USD an hour, of Spot requests."""
    rates: dict[str, float] = {}
    """Pages a second of one worker, by type, where they were measured; else the planning values count."""

    @model_validator(mode="after")
    def _rates_known(self) -> PlannedRun:
        unknown = [type_ for type_ in self.types if type_ not in GPUS and type_ not in self.rates]
        if unknown:
            raise ValueError(
                f"how fast {unknown[0]} reads is not known: measure it (pdf-flows gpu-check) and give "
                f"--pages-per-second {unknown[0]}=0.5, or name other types ({', '.join(GPUS)})"
            )
        return self

    def rate(self, type_: str) -> float:
        """Pages a second of one worker on a machine of this type."""
        return self.rates[type_] if type_ in self.rates else GPUS[type_].pages_per_second

    @property
    def page_count(self) -> int | None:
        """Pages to convert; None where nothing tells."""
        if self.pages is not None:
            return self.pages
        return None if self.documents is None else round(self.documents * self.pages_per_document)


def planned_run(
    *,
    workers: int,
    types: str | None = None,
    documents: int | None = None,
    pages: int | None = None,
    pages_per_document: float = PAGES_PER_DOCUMENT,
    budget: str | None = None,
    deadline: str | None = None,
    max_price: str | None = None,
    rates: list[str] | None = None,
) -> PlannedRun:
    """From the command line. Raises UsageError naming what is bad."""
    try:
        return PlannedRun(
            workers=workers,
            types=split(types) or MACHINE_TYPES,
            documents=documents,
            pages=pages,
            pages_per_document=pages_per_document,
            budget=_parsed("--budget", budget, parse_usd),
            deadline=_parsed("--deadline", deadline, parse_duration),
            max_price=_parsed("--max-price", max_price, parse_usd),
            rates=dict(_rate(text) for text in rates or ()),
        )
    except ValidationError as error:
        name, why = bad_field(error)
        option = "--" + name.replace("_", "-") if name else "options"
        words = why.split(" (given:")[0].removeprefix("Value error, ")
        raise UsageError(f"bad {option}: {words}") from None


def split(text: str | None) -> tuple[str, ...]:
    """Names with commas or blanks between them."""
    return tuple(name for name in (text or "").replace(",", " ").split() if name)


def capped_price(budget: float, workers: int, hours: float) -> float:
    """USD an hour so that even `workers` machines for `hours` hours stay below 94 % of the budget, to the cent. Pure.

    The rest is for disks and addresses. What costs more than this at the moment is excluded by it.
    """
    return int(budget * 0.94 / (workers * hours) * 100) / 100


def _parsed(option: str, text: str | None, parse: Callable[[str], float]) -> float | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"bad {option}: {error}") from None


def _rate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not name or not SLOWEST <= rate <= FASTEST:
        raise UsageError(f"bad --pages-per-second {text!r}: give TYPE=RATE, for example g4dn.xlarge=0.4")
    return name, rate
