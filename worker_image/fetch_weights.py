"""While the image is built: fetch a model's files, of the pinned revision and verified, into $PDF_FLOWS_MODELS.

`pdf-flows weights fetch` does the same; this needs only the few modules that the Dockerfile copies before the project.
"""

from __future__ import annotations

import sys


def main(argv: list[str]) -> int:
    """fetch_weights.py MODEL [REVISION]. Exit status 2 where they cannot be had."""
    from tasks.corpus.failures import UsageError
    from tasks.engines.dolphin.checkpoint import Checkpoint
    from tasks.weights import checkpoint_folder

    try:
        folder = checkpoint_folder(argv[0], argv[1] if len(argv) > 1 else None, verify=True)
        parameters = Checkpoint(folder).parameters()
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write(f"{folder}: {parameters:,} parameters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
