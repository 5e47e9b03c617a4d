"""What is installed here, for the record."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "pdf-flows",
    "prefect",
    "prefect-aws",
    "pymupdf",
    "pymupdf4llm",
    "rapidocr",
    "onnxruntime",
    "torch",
    "boto3",
)


def versions() -> dict[str, str]:
    """Of Python and of the packages that a run's outcome may depend on, as far as they are installed."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
