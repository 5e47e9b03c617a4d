"""Keys of the storage protocol below `<runs>`: pure, so that every module spells them alike.

DESIGN section 3. One deviation: the parent's lease is a folder `parent/<epoch>/` (lease, heartbeat, stop, ledger), since a
key can't be an object and a folder at once on a file system.
"""

from __future__ import annotations

import re

from tasks.corpus.failures import UsageError

SCHEMA = 1
"""Version of every object that this code writes."""

INDEX_DIGITS = 9
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def check_run_id(run_id: str) -> str:
    """The run id itself; raises UsageError where it couldn't be a folder's name."""
    if not _RUN_ID.match(run_id):
        raise UsageError(
            f"bad run id {run_id!r}: use up to 64 letters, digits, '.', '_' and '-', first a letter or digit"
        )
    return run_id


def starts() -> str:
    """Prefix of the start records, one object each time that a run was started or resumed, in order."""
    return "_starts/"


def start(number: int) -> str:
    """Start record `number`."""
    return f"_starts/{number:0{INDEX_DIGITS}d}.json"


def run(run_id: str) -> str:
    """What the run is: create-if-absent."""
    return f"{run_id}/run.json"


def manifest(run_id: str, unique: str) -> str:
    """The frozen list of documents."""
    return f"{run_id}/manifest-{unique}.jsonl.zst"


def claims(run_id: str, partition: int) -> str:
    """Prefix of a partition's claims."""
    return f"{run_id}/claims/{partition}/"


def claim(run_id: str, partition: int, index: int, n: int) -> str:
    """Claim `n` on a document; `n`+1 takes over an expired or released `n`."""
    return f"{run_id}/claims/{partition}/{index:0{INDEX_DIGITS}d}/{n}"


def released(run_id: str, partition: int, index: int, n: int) -> str:
    """Says that the holder gave claim `n` back."""
    return claim(run_id, partition, index, n) + ".released"


def workers(run_id: str) -> str:
    """Prefix of all workers' lives."""
    return f"{run_id}/workers/"


def worker(run_id: str, worker_: int) -> str:
    """Prefix of one worker's lives."""
    return f"{run_id}/workers/{worker_}/"


def life(run_id: str, worker_: int, attempt: int) -> str:
    """Prefix of one life."""
    return f"{run_id}/workers/{worker_}/{attempt}/"


def parents(run_id: str) -> str:
    """Prefix of all parents' leases."""
    return f"{run_id}/parent/"


def parent(run_id: str, epoch: int) -> str:
    """Prefix of one parent's lease."""
    return f"{run_id}/parent/{epoch}/"


def settled(run_id: str, epoch: int) -> str:
    """What a start of the run found settled."""
    return f"{parent(run_id, epoch)}settled.zst"


def spend(run_id: str) -> str:
    """Prefix of the spend ledger."""
    return f"{run_id}/spend/"


def launches(run_id: str, worker_: int) -> str:
    """Prefix of a worker's launches, one object each."""
    return f"{run_id}/launches/{worker_}/"


def canary(run_id: str) -> str:
    """What the canary came to, of the run's last start that had one."""
    return f"{run_id}/canary"


def scales(run_id: str) -> str:
    """Prefix of the wishes for another number of workers, the newest last."""
    return f"{run_id}/scale/"


def checkpoints(run_id: str) -> str:
    """Prefix of all checkpoints."""
    return f"{run_id}/checkpoints/"


def checkpoint(run_id: str, content: str, engine: str, index: int) -> str:
    """Prefix of one document's segments: by its content's sha256 and the engine's fingerprint."""
    return f"{checkpoints(run_id)}{content}/{engine}/{index:0{INDEX_DIGITS}d}-"


def segment(run_id: str, content: str, engine: str, index: int, unique: str) -> str:
    """One segment of a document's finished pages."""
    return f"{checkpoint(run_id, content, engine, index)}{unique}.jsonl.zst"


def failures(run_id: str, worker_: int) -> str:
    """All failures of a worker, attempts merged."""
    return f"{run_id}/failures/worker-{worker_}-failures.json"


def failures_prefix(run_id: str) -> str:
    """Prefix of all workers' failures files."""
    return f"{run_id}/failures/"


def replaced(run_id: str, key: str) -> str:
    """Where --overwrite moves an old output to."""
    return f"{run_id}/replaced/{key}"


def told(run_id: str) -> str:
    """Prefix of the messages that people were sent, one object each."""
    return f"{run_id}/told/"


def report(run_id: str) -> str:
    """The run's last word."""
    return f"{run_id}/report.json"


def report_page(run_id: str) -> str:
    """The same for people, while the run lives, too."""
    return f"{run_id}/report.html"
