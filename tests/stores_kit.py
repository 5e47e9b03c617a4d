"""What the tests of the stores share: odd keys, and a look at a store."""

from __future__ import annotations

from tasks.corpus.store import Store

ODD = [
    "caf\u00e9.pdf",
    "cafe\u0301.pdf",
    "with space.pdf",
    "  both ends  .pdf",
    "hash#fragment.pdf",
    "percent%20encoded.pdf",
    "100%.pdf",
    "plus+and=equals.pdf",
    "-leading-dash.pdf",
    'it\'s "quoted".pdf',
    "new\nline.pdf",
    "tab\there.pdf",
    "back\\slash.pdf",
    "question?query=1&b=2.pdf",
    "a.pdf",
    "a.PDF",
    "a/b.pdf",
    "a-b.pdf",
    "a0.pdf",
    "folder.pdf/inside.pdf",
    "\u4e2d\u6587.pdf",
    "\U0001f4c4 \uffee.pdf",
    "zero\u200bwidth.pdf",
    ".hidden.pdf",
    ".pdf",
    "/".join(["d" * 199] * 4) + "/" + "x" * 196 + ".pdf",
]


def keys(store: Store, prefix: str = "") -> list[str]:
    """All keys that begin with `prefix`, in the store's order."""
    return [info.key for info in store.list(prefix)]
