"""The workers' image as its Dockerfile describes it, mapped onto this clone: what a container runtime would start, with
what environment.

The image itself is not built for it. What the Dockerfile's last stage says (ENTRYPOINT, ENV, WORKDIR) is read, and its paths
become those of this machine: the project is the clone, the virtual environment this one, /tmp a folder of the container's
own.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.corpus.failures import UsageError

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "worker_image" / "Dockerfile"


class Image(BaseModel):
    """What there is to start."""

    model_config = ConfigDict(frozen=True)

    entrypoint: list[str]
    environment: dict[str, str]
    workdir: str


def read_image(text: str) -> Image:
    """The last stage of a Dockerfile; ARGs have their defaults. Pure. Raises UsageError where it has no entrypoint."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\\s*\n", " ", text).splitlines()
    arguments: dict[str, str] = {}
    environment: dict[str, str] = {}
    entrypoint: list[str] = []
    workdir = "/"
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        match word.upper():
            case "FROM":
                environment, entrypoint, workdir = {}, [], "/"
            case "ARG":
                arguments |= dict(pair.partition("=")[::2] for pair in shlex.split(rest))
            case "ENV":
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    environment[name] = _filled(value, arguments | environment)
            case "WORKDIR":
                workdir = rest.strip()
            case "ENTRYPOINT":
                entrypoint = json.loads(rest)
            case _:
                pass
    if not entrypoint:
        raise UsageError(
            "the Dockerfile's last stage has no ENTRYPOINT in its JSON form: a container would start nothing"
        )
    return Image(entrypoint=entrypoint, environment=environment, workdir=workdir)


def _filled(value: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], ""), value)


class Places:
    """Paths of the image on this machine.

    Args:
        scratch: what the container has as /tmp.
        notice: what its host mounts as /run/spot-notice.
    """

    def __init__(self, scratch: Path, notice: Path) -> None:
        self._known = {
            # Already of this machine, wherever the clone is.
            str(ROOT): str(ROOT),
            sys.prefix: sys.prefix,
            "/opt/pdf-flows": str(ROOT),
            "/opt/venv": sys.prefix,
            "/run/spot-notice": str(notice),
            "/tmp": str(scratch),  # noqa: S108 - the image's
        }
        paths = "|".join(re.escape(path) for path in self._known)
        self._path = re.compile(rf"(?<![\w./-])({paths})(?=[/:]|$)")

    def here(self, value: str) -> str:
        """A value with the image's paths replaced; others (of programs, of weights) stay."""
        return self._path.sub(lambda found: self._known[found[1]], value)

    def all_here(self, values: Mapping[str, str]) -> dict[str, str]:
        """The same for an environment."""
        return {name: self.here(value) for name, value in values.items()}
