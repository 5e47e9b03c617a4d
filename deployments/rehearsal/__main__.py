"""`make rehearse`: the rehearsal on one's own PDFs (docs/rehearsal.md)."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from deployments.say import say, tell
from deployments.streams import settle
from tasks.corpus.failures import PdfFlowsError, UsageError

NEEDED = ("moto", "prefect_aws", "watchtower")
FOREIGN = ("AWS_", "PREFECT_", "PDF_FLOWS_")
app = App(
    name="rehearsal",
    help="Convert PDFs on a pretended AWS, with a Spot notice on the way. Exit status: 0 all accounted for and nothing left, "
    "1 not so, 2 bad usage, 3 a part of it did not come up.",
    version_flags=(),
)


@app.default
def rehearse(
    input: Annotated[Path, Parameter(help="A folder of PDFs.")] = Path("samples"),
    *,
    workers: Annotated[int, Parameter(help="Machines at the same time, each with one worker.")] = 2,
    keep: Annotated[Path | None, Parameter(help="An empty folder for logs and scratch, which stay there.")] = None,
) -> int:
    """Convert the PDFs of a folder on the pretended AWS."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} is not installed: make rehearse brings it")
    if workers < 1:
        raise UsageError(f"bad --workers: {workers}")
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UsageError(f"bad --keep: {keep} is no empty folder")
    # No account, profile or Prefect API of the user's gets in. Before prefect is imported, which reads them.
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="rehearsal-", ignore_cleanup_errors=True) as scratch:
        folder = (keep or Path(scratch)).absolute()
        nothing = Path(scratch) / "none"
        os.environ |= {
            "PREFECT_HOME": str(folder / "client"),
            "PREFECT_PROFILES_PATH": str(nothing),
            "AWS_CONFIG_FILE": str(nothing),
            "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
        }
        from deployments.rehearsal.play import Transcript, pdfs_of, play

        good = play(folder / "stage", pdfs_of(input), Transcript(say), workers=workers)
    say("all accounted for, nothing left" if good else "NOT all is as it should be: see above")
    if keep is not None:
        tell(f"logs: {keep}")
    return 0 if good else 1


def main() -> int:
    """The exit status. Every error that a person can mend is one line on stderr."""
    settle()
    try:
        status = app(exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        tell(f"rehearsal: {' '.join(str(error).split())}")
        return 2
    except PdfFlowsError as error:
        tell(f"rehearsal: {error}")
        return 2 if isinstance(error, UsageError) else 3
    except KeyboardInterrupt:
        tell("rehearsal: interrupted; nothing of it is left")
        return 3
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
