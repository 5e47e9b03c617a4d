"""How libraries say that memory ran out."""

from __future__ import annotations

import pytest

from tasks.engines.memory import error_says_so, words_say_so


@pytest.mark.parametrize(
    "words",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "MemoryError",
        "code=2: malloc (1234 bytes) failed",
        "no page can be read: realloc (6144 bytes) failed",
        "calloc (2 x 99 bytes) failed",
        "alloc failed",
        "numpy: Cannot allocate memory",
        "onnxruntime: bad allocation",
        "error: out of memory",
    ],
)
def test_words(words: str) -> None:
    assert words_say_so(words)
    assert error_says_so(RuntimeError(words))


def test_what_led_to_an_error_counts() -> None:
    error = ValueError("the page can't be drawn")
    error.__context__ = MemoryError()
    assert error_says_so(error)


@pytest.mark.parametrize("words", ["", "Killed", "cannot open the file", "syntax error in the memory dictionary"])
def test_other_words(words: str) -> None:
    assert not words_say_so(words)
    assert not error_says_so(ValueError(words))
