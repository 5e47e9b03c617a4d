"""Turning pages. What was done to one can be done again, to the byte, where it is loaded anew."""

from __future__ import annotations

from typing import Any


def turn(page: Any, degrees: int) -> Any:
    """Turn a page so that what was seen at /Rotate `degrees` is upright without it; 0 takes /Rotate away and no more.

    Returns the matrix that takes the content's coordinates in the file to those that it has now. Links are not where they
    were: PyMuPDF moves their places as if they had been turned before.
    """
    page.set_rotation(degrees)
    return ~page.remove_rotation() if degrees else None
