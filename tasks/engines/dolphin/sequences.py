"""Sequences as all sides know them: how long the rows of the reader's lanes are, and how a sequence ends. No torch here."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

SHORT: Final = 1024
"""Tokens that a row of the main lane holds; longer sequences go on in the long lane, so that they do not slow down the others."""
LONG_ROWS: Final = 4
"""Rows of the long lane."""


class End(StrEnum):
    """Why a sequence ended."""

    END = "end"
    """The model wrote its end."""
    LENGTH = "length"
    """It wrote as much as fits: the text is cut off."""
    LOOP = "loop"
    """It repeated itself, and was stopped."""
