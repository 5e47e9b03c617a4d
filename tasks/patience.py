"""Patience with a store that fails: one policy for claims, ledger, fetching and publishing."""

from __future__ import annotations

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from tasks.corpus.failures import Category, StoreError

STORE_PATIENCE_SECONDS = 120.0
"""How long a step is tried again while the store fails."""


def patient(patience: float = STORE_PATIENCE_SECONDS) -> Retrying:
    """Tries again while the store fails; a full disk or a refusal is not waited out."""
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, StoreError) and error.category is Category.STORE),
        stop=stop_after_delay(patience),
        wait=wait_exponential_jitter(initial=0.5, max=15),
        reraise=True,
    )
