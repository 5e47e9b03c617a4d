"""The parameters that a template declares: CloudFormation's own rules for their values, asked before anything is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.corpus.failures import UsageError


class Declared(BaseModel):
    """One parameter, as far as its value is bound by the template."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    type: str = Field("String", alias="Type")
    default: str | None = Field(None, alias="Default")
    pattern: str | None = Field(None, alias="AllowedPattern")
    values: tuple[str, ...] | None = Field(None, alias="AllowedValues")
    least: float | None = Field(None, alias="MinValue")
    most: float | None = Field(None, alias="MaxValue")
    description: str = Field("", alias="Description")

    def objection(self, value: str) -> str | None:
        """Why CloudFormation would refuse the value; None where it would not. Pure."""
        if self.values is not None and value not in self.values:
            return f"one of {', '.join(self.values)}"
        if self.type == "Number" and not self._number(value):
            return "a number" + self._range()
        if self.pattern is not None and re.fullmatch(self.pattern, value) is None:
            return f"it has to match {self.pattern}"
        return None

    def _number(self, value: str) -> bool:
        if re.fullmatch(r"-?\d+(\.\d+)?", value) is None:
            return False
        number = float(value)
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)

    def _range(self) -> str:
        bounds = [(self.least, "from"), (self.most, "to")]
        return "".join(f" {word} {bound:g}" for bound, word in bounds if bound is not None)


def declared_parameters(text: str) -> dict[str, Declared]:
    """A template's parameters. Raises UsageError.

    Read here: CloudFormation tells them only of a template that lies in S3 already, if it is as large as ours.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads past CloudFormation's tags (!Ref and others)."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    try:
        found: Any = yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise UsageError(f"the template is no YAML: {' '.join(str(error).split())}") from None
    given: Any = (found.get("Parameters") or {}) if isinstance(found, dict) else None
    try:
        # As a mapping of names to mappings: anything else is refused by one of these.
        return {str(name): Declared.model_validate(about) for name, about in given.items()}
    except (AttributeError, ValidationError):
        raise UsageError(
            "the template is none of CloudFormation's: a mapping, with Parameters by their names"
        ) from None


def refuse_values(known: Mapping[str, Declared], wanted: Mapping[str, str], options: Mapping[str, str]) -> None:
    """Raises UsageError for the first value that CloudFormation would refuse. Pure.

    Args:
        options: what the command line calls a parameter, by its name in the template.
    """
    for name, value in wanted.items():
        if (why := known[name].objection(value)) is not None:
            about = f" ({known[name].description})" if known[name].description else ""
            raise UsageError(f"bad {options.get(name, f'--parameter {name}')} {value!r}: {why}{about}")
