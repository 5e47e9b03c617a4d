"""Publish: assets, intent, Markdown - in that order, create-if-absent, so that readers see all or nothing, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.corpus.claims import Claim
from tasks.corpus.failures import StoreError
from tasks.corpus.ledger import LedgerWriter, Record
from tasks.corpus.store import Store, content_sha256


class Publishing:
    """Publishes Markdown with its assets so that readers see all or nothing, once.

    Args:
        check_life: called right before the Markdown is put; raises Fenced where this life may not publish any more.
        still_mine: whether a claim is still this life's and the newest.
    """

    def __init__(
        self,
        output: Store,
        ledger: LedgerWriter,
        run_id: str,
        check_life: Callable[[Claim], None],
        still_mine: Callable[[Claim], bool],
    ) -> None:
        self._output = output
        self._ledger = ledger
        self._run_id = run_id
        self._check_life = check_life
        self._still_mine = still_mine
        self._unsure: set[str] = set()
        """Names whose PUT failed and may have arrived."""

    def publish(self, claim: Claim, data: bytes, assets: list[tuple[str, Path]], intent: Record) -> bool:
        """Assets, intent, then the Markdown. True if the output is this life's, False if another's was there first."""
        for key, file in assets:
            self._output.create(key, file.read_bytes())
        self._ledger.flush(self._ledger.add(intent))
        self._check_life(claim)
        stamp = stamp_of(self._run_id, intent)
        try:
            created = self._output.create(intent.name, data, stamp)
        except StoreError:
            self._unsure.add(intent.name)
            raise
        if created:
            return True
        found = dict(self._output.metadata(intent.name))
        if found:
            return found == stamp
        # Folders keep no metadata: the content tells, where a try of this life may have arrived unheard. A successor's
        # content is the same, so only a claim that nobody took over proves anything; else the intents settle it later.
        return (
            intent.name in self._unsure
            and content_sha256(self._output, intent.name) == intent.sha256
            and self._still_mine(claim)
        )


def stamp_of(run_id: str, intent: Record) -> dict[str, str]:
    """The metadata of the Markdown that an intent announces: says whose it is, where the store keeps metadata."""
    return {
        "run": run_id,
        "worker": str(intent.worker),
        "attempt": str(intent.attempt),
        "sha256": intent.sha256 or "",
    }
