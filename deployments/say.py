"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print exactly one JSON object on stdout.")]


def tell(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(text + "\n")


def say(text: str) -> None:
    """A line of the result, on stdout; at once, also where a pipe reads it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(data: object) -> None:
    """The result as one line of JSON, on stdout."""
    say(json.dumps(data))
