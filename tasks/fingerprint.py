"""The engine's fingerprint: what decides the pages that it makes. Pages of another fingerprint are not mixed into a document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tasks.engines.protocol import EngineName, Limits


def engine_fingerprint(
    engine: EngineName, versions: Mapping[str, str], options: Mapping[str, Any], limits: Limits
) -> str:
    """32 hexadecimal digits, the same on every machine on which the engine makes the same pages. Pure.

    Args:
        versions: what the engine said when it was ready: libraries, model and revision, dtype, the engine's own code.
        options: the engine's, from the run's identity: among them how pages are rendered.
        limits: those that can make a page a gap count; how many pages or seconds a document may have does not.
    """
    facts = {
        "engine": engine.value,
        "versions": dict(versions),
        "options": dict(options),
        "limits": limits.model_dump(include={"page_timeout", "memory_mb", "max_pixels"}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
