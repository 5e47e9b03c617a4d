"""The baseline: one bare process that loops pymupdf4llm over its share of some documents, with the sandbox's limits.

    python tests/benchmarks/bare.py OUT MEMORY_MB DOCUMENT...

Same library calls, same threads, same memory limit as a sandbox child; no Prefect, no claims, no sandbox, no publishing.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path


def main(out: Path, memory_mb: int, documents: list[Path]) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    sys.stdout = sys.stderr
    from tasks.engines.layout import threads  # the sandbox's own setting, for a fair comparison

    threads.bound(1)
    import pymupdf4llm

    for document in documents:
        begun = time.monotonic()
        try:
            chunks = pymupdf4llm.to_markdown(str(document), page_chunks=True)
        except Exception as error:  # noqa: BLE001 - the baseline goes on, whatever the library raises
            sys.stderr.write(f"{document.name}: {type(error).__name__}\n")
            continue
        text = "\n\n".join(chunk["text"] for chunk in chunks)
        (out / f"{document.stem}.md").write_text(text, encoding="utf-8", errors="replace")
        sys.stderr.write(f"{document.name}: {time.monotonic() - begun:.2f} s\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
