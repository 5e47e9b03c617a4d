"""Where a model's files are: fetched, verified, and kept for the next time.

`--model` is a Hugging Face id, a folder, or s3://bucket/prefix. What is fetched is checked against the checksums that
its host tells, and only safetensors and JSON are taken; a known model is pinned to a revision. There is no fallback to
another model or engine.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.corpus.failures import StoreError, UsageError
from tasks.corpus.store import open_store
from tasks.engines.dolphin.settings import DEFAULT_MODEL, DolphinOptions, ReadingSettings

PINNED: Final[Mapping[str, str]] = {DEFAULT_MODEL: "0fe42a93fa2a8f7b537606710ea45ad8b2b0f349"}
"""Commits of models that are known. Another revision has to be asked for."""
MODELS_VARIABLE: Final = "PDF_FLOWS_MODELS"
ROOT: Final = Path(__file__).resolve().parents[1]
RECORD: Final = ".pdf-flows.json"
WANTED: Final = (
    "config.json", "preprocessor_config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "README.md", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors",
)  # fmt: skip
"""All that is taken. Nothing of it is code."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class WeightsError(UsageError):
    """The model's files cannot be had. The message says what to do."""


class Fetched(BaseModel):
    """What was fetched, written last: a folder without it is not complete."""

    model_config = ConfigDict(frozen=True)

    model: str
    revision: str
    files: dict[str, str]
    """Name to sha256."""
    asked: str | None = None
    """The revision by the name that was given, e.g. of a branch."""


def check_installed() -> None:
    """Raises WeightsError where the extra is missing: the base install has no torch."""
    missing = [name for name in ("torch", "tokenizers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise WeightsError(f"--engine dolphin needs {', '.join(missing)}: make setup EXTRAS=dolphin")


def check_model(options: DolphinOptions, slots: int | None = None, *, device: bool = False) -> None:
    """Fetch the model where it is not here yet, and refuse what the engine cannot run. Raises UsageErrors.

    Args:
        device: also that it fits this machine's device.
    """
    check_installed()
    folder = checkpoint_folder(options.model, options.revision)

    from tasks.engines.dolphin.checkpoint import Checkpoint

    Checkpoint(folder).parameters()
    if device:
        # In a process of its own: asking a GPU costs memory on it for as long as the asking process lives.
        settings = ReadingSettings(folder=folder, dtype=options.dtype, slots=slots)
        command = [sys.executable, "-m", "tasks.engines.dolphin.device", settings.model_dump_json()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WeightsError(done.stderr.strip().rpartition("\n")[2] or "the device cannot be asked what it has")


def checkpoint_folder(model: str, revision: str | None = None, *, to: Path | None = None, verify: bool = False) -> Path:
    """The folder with the model's files, fetched where it is not here yet.

    Args:
        model: a Hugging Face id, a folder, or s3://bucket/prefix.
        revision: of a Hugging Face id; None: the pinned one, else the newest.
        to: keep it there instead of in the models' folder.
        verify: check the sums of what is here already.

    Raises:
        WeightsError: with the remedy.
    """
    if model.startswith("s3://"):
        return _from_s3(model, to, verify)
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        if to is not None:
            raise WeightsError(f"--to goes with a model that is fetched: {model} is a folder already")
        if verify:
            _verify(folder)
        return folder.absolute()
    if not _ID.fullmatch(model):
        raise WeightsError(f"--model {model}: no such folder, and neither a Hugging Face id nor s3://bucket/prefix")
    return _from_hub(model, revision or PINNED.get(model), to, verify)


def models_folders() -> list[Path]:
    """Where fetched models are looked for: $PDF_FLOWS_MODELS, then the user's cache. The first that can be written gets new ones.

    In the workers' image the first one belongs to root, and holds what was baked in.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    own = (Path(cache) if cache else Path.home() / ".cache") / "pdf-flows" / "models"
    named = os.environ.get(MODELS_VARIABLE)
    return [Path(named).expanduser(), own] if named else [own]


def _places(name: str, to: Path | None) -> list[Path]:
    return [to] if to is not None else [folder / name for folder in models_folders()]


def _new_place(places: list[Path]) -> Path:
    return next((place for place in places if _writable(place.parent)), places[0])


def _writable(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _from_hub(model: str, revision: str | None, to: Path | None, verify: bool) -> Path:
    places = _places(f"{model.replace('/', '--')}@{revision or 'main'}", to)
    for kept in places:
        if (
            (record := _record(kept)) is not None
            and record.model == model
            and (revision or "main") in (record.asked or "main", record.revision)
        ):
            if verify:
                _verify(kept)
            return kept
    kept = _new_place(places)
    if to is None and (found := _in_hub_cache(model, revision)) is not None:
        if verify:
            _verify_hub_cache(found)
        return found
    if to is not None:
        _check_replaceable(to)
    if importlib.util.find_spec("huggingface_hub") is None:
        raise WeightsError(
            f"{model} is not on this machine, and fetching it needs the extra: make setup EXTRAS=dolphin"
        )
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import RequestException

    from tasks.engines.dolphin.checkpoint import check_config

    remedy = f"fetch it where there is a network (pdf-flows weights fetch {model} --to FOLDER) and give --model FOLDER"
    try:
        info = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=30)
        siblings = {file.rfilename: file for file in info.siblings or []}
        names = _wanted(model, list(siblings))
        if "config.json" not in names:
            raise WeightsError(f"{model} has no config.json: it is no model that this engine runs")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=kept.parent) as temporary:
            place = Path(temporary) / "files"
            # The configuration first: gigabytes of another model are not fetched to be refused.
            snapshot_download(model, revision=info.sha, local_dir=place, allow_patterns=["config.json"])
            check_config(place)
            snapshot_download(model, revision=info.sha, local_dir=place, allow_patterns=names)
            shutil.rmtree(place / ".cache", ignore_errors=True)
            sums = {}
            for name in names:
                sums[name] = _check_hub_file(place / name, siblings[name])
            return _keep(place, kept, Fetched(model=model, revision=info.sha or "", files=sums, asked=revision))
    except GatedRepoError:
        raise WeightsError(
            f"{model} wants you to log in and to accept its terms first (huggingface-cli login)"
        ) from None
    except RevisionNotFoundError:
        raise WeightsError(f"{model} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise WeightsError(f"no model {model} on Hugging Face, and no such folder") from None
    except UsageError:
        raise
    except (HfHubHTTPError, RequestException, OSError, ValueError) as error:
        # requests' message about a connection that failed is a tower of addresses and objects.
        why = "no connection" if isinstance(error, NoConnection) else " ".join(str(error).split())[:200]
        raise WeightsError(
            f"the model {model} is not on this machine and cannot be fetched ({why}); {remedy}"
        ) from None


def _in_hub_cache(model: str, revision: str | None) -> Path | None:
    """What another program has fetched already, complete."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", revision=revision or "main")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    complete = all((folder / name).is_file() for name in ("preprocessor_config.json", "tokenizer.json"))
    # The parts of a model that is in parts may not all be there.
    return folder if complete and (folder / "model.safetensors").is_file() else None


def _verify_hub_cache(folder: Path) -> None:
    """Files there are links to blobs that are named by their sums: the sha256 of large files, else git's."""
    for path in sorted(folder.iterdir()):
        if not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in WANTED):
            continue
        name = path.resolve().name
        if len(name) not in (40, 64):
            continue  # copied, where the system has no links
        if name != (_sha256(path) if len(name) == 64 else _git_blob(path.read_bytes())):
            raise WeightsError(f"{path} is not what was fetched: remove it and fetch it again")


def _check_hub_file(path: Path, told: Any) -> str:
    """The file's sha256, if it is the file that the hub told of: by its sha256 (large files), or its git blob."""
    content = path.read_bytes() if told.lfs is None else None
    digest = hashlib.sha256(content).hexdigest() if content is not None else _sha256(path)
    if told.lfs is not None:
        right = digest == told.lfs.sha256
    else:
        assert content is not None
        right = told.blob_id is None or _git_blob(content) == told.blob_id
    if not right:
        raise WeightsError(f"{path.name} came with another checksum than the hub tells; try again")
    return digest


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _from_s3(url: str, to: Path | None, verify: bool) -> Path:
    url = url.rstrip("/")
    places = _places(f"s3-{hashlib.sha256(url.encode()).hexdigest()[:16]}", to)
    store = open_store(url)
    try:
        listed = {info.key: info for info in store.list()}
        if not listed:
            raise WeightsError(f"--model {url}: there is nothing")
        version = hashlib.sha256(repr(sorted((i.key, i.size, i.etag) for i in listed.values())).encode()).hexdigest()
        for kept in places:
            if (record := _record(kept)) is not None and (record.model, record.revision) == (url, version):
                if verify:
                    _verify(kept)
                return kept
        kept = _new_place(places)
        if to is not None:
            _check_replaceable(to)
        names = _wanted(url, list(listed))
        told = Fetched.model_validate_json(store.read(RECORD)).files if RECORD in listed else {}
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=kept.parent) as temporary:
            place = Path(temporary) / "files"
            place.mkdir()
            sums = {}
            for name in names:
                store.fetch(name, place / name)
                sums[name] = _sha256(place / name)
                if told.get(name, sums[name]) != sums[name]:
                    raise WeightsError(
                        f"{url}/{name} is not the file that {RECORD} beside it tells of: put it there again"
                    )
            return _keep(place, kept, Fetched(model=url, revision=version, files=sums))
    except (StoreError, ValidationError, OSError) as error:
        raise WeightsError(f"--model {url} cannot be fetched: {' '.join(str(error).split())}") from None


def _wanted(model: str, names: list[str]) -> list[str]:
    # `*` matches slashes, too; nothing in a folder below is of the model.
    found = [
        name for name in names if "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in WANTED)
    ]
    if not any(name.endswith(".safetensors") for name in found):
        raise WeightsError(
            f"{model} has no model.safetensors; other formats are not read, because loading them can run code"
        )
    return found


def _check_replaceable(folder: Path) -> None:
    """Raises WeightsError for a folder with anything but a fetched model in it: putting a model there would remove it."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise WeightsError(f"--to {folder} is no folder")
    record = _record(folder)
    ours = set() if record is None else {RECORD, *record.files}
    if others := sorted({path.name for path in folder.iterdir()} - ours):
        raise WeightsError(f"--to {folder} has other files in it ({others[0]!r}): name a new folder, or an empty one")


def _keep(place: Path, kept: Path, record: Fetched) -> Path:
    """Put a complete folder where it is looked for; a process that was faster wins."""
    if _record(kept) == record:
        return kept
    (place / RECORD).write_text(record.model_dump_json(indent=1))
    if kept.is_dir():
        shutil.rmtree(kept)
    try:
        place.rename(kept)
    except OSError:
        if _record(kept) is None:
            raise
    return kept


def _record(folder: Path) -> Fetched | None:
    try:
        return Fetched.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def _verify(folder: Path) -> None:
    record = _record(folder)
    if record is None:
        return
    for name, digest in record.files.items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise WeightsError(f"{folder / name} is not what was fetched: remove {folder} and fetch it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
