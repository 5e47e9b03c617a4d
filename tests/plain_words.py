"""Whether a message is one that a person without the source code understands."""

from __future__ import annotations

import re

_ODD = (
    r"code=-?\d+",
    r"\b\w+(?:Error|Exception|Warning)\b",
    r"\bTraceback\b",
    r"\w::\w",
    r"\b0x[0-9a-fA-F]+",
    r"\bFz\w*",
    r"\b\w*[a-z0-9]_[a-z]\w*(?![\w.]*\.\w+\b)",  # identifiers
    r"\b\w+\.(?:py|cpp|c|h|so)\b",
    r"<(?:class|module|function)\b",
    r"\bobject at\b|\bNoneType\b|\bbad_alloc\b|\berrno\b|\bNone\b|\bself\b",
    r"(?<![\w.])/(?:\w+/)+\w+",  # paths of a machine
    r"\[ONNX\w*\]|\bstatus [1-9]\d*\b",
    r"\b(?i:xref|objstm|trailer dict|mupdf|pymupdf|onnxruntime)\b",
)
_ODD_WORDS = re.compile("|".join(f"(?:{pattern})" for pattern in _ODD))


def odd_words(message: str) -> list[str]:
    """What in a message is a library's way of speaking; [] if none. In brackets it may stand, for whoever looks into it."""
    return [match[0] for match in _ODD_WORDS.finditer(message.partition(" (")[0])]
