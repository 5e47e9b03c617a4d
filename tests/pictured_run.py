"""The run in the pictures of the report and the monitor: five workers, two interruptions, a dozen failures, in the middle."""

from __future__ import annotations

from watched_run import BEGAN, WatchedRun

from tasks.corpus.failures import Category, Failure, Phase
from tasks.corpus.lives import Stage
from tasks.corpus.store import Store

DOCUMENTS, WORKERS = 4000, 5
DONE_SECONDS = 9000.0
"""Of the run, at the time of the picture."""
NAMES = (
    "atlas",
    "coast-pilot",
    "harbour-dues",
    "keepers-log",
    "lamp-trials",
    "notices",
    "tide-tables",
    "wreck-register",
)
TROUBLES = (
    (Category.DAMAGED, Phase.OPEN, "cross-reference table is broken beyond repair"),
    (Category.ENCRYPTED, Phase.OPEN, "a password is needed, and none of those given fits"),
    (Category.TIMEOUT, Phase.CONVERT, "page 212 took longer than 120 s"),
    (Category.NOT_A_PDF, Phase.OPEN, "begins with '<!DOCTYPE html>': a web page"),
)


def pictured_run(store: Store, output: str, done: int = 1123) -> WatchedRun:
    """Made in `store` (`<runs>`)."""
    keys = {i: f"{1870 + i % 60}/{NAMES[i % len(NAMES)]}-{i:04d}.pdf" for i in range(DOCUMENTS)}
    source = f"{output.rpartition('/')[0]}/pdfs"
    run = WatchedRun(store, DOCUMENTS, WORKERS, keys=keys, input=source, output=output, engine="dolphin")
    ends = {0: 9000.0, 1: 5400.0, 2: 9000.0, 3: 3100.0, 4: 9000.0}
    lives = {k: [(0, 60.0 + 8 * k, end)] for k, end in ends.items()}
    lives[1].append((1, 5980.0, 9000.0))
    lives[3] += [(1, 3500.0, 7000.0), (2, 7420.0, 9000.0)]
    for k, some in lives.items():
        for attempt, begin, _ in some:
            run.live(k, attempt, at=begin)
    for number in range(done):
        k = number % WORKERS
        at = 240.0 + 8700.0 * number / done
        # What fell into a gap is done by the next life, when its engine is ready.
        attempt, begin = next((a, begin) for a, begin, end in lives[k] if at <= end)
        at = max(at, begin + 90 + number % 40)
        pages = 4 + (number * 37) % 31
        if number % 94 == 17:
            category, phase, message = TROUBLES[number // 94 % len(TROUBLES)]
            failure = Failure(category=category, phase=phase, message=message, retryable=category is Category.TIMEOUT)
            run.fail(k, number, attempt=attempt, at=at, failure=failure)
        else:
            seconds = round(pages * (0.4 + (number * 53) % 17 / 40), 2)
            gaps = [3] if number == 500 else []
            run.record(k, number, attempt, at=at, pages=pages, seconds={"total": seconds, "engine": seconds}, gaps=gaps)
    run.flush()
    for k, some in lives.items():
        for attempt, begin, end in some:
            over = end < 9000.0
            said = {1: "notice: the machine is taken away"}.get(k) if over else None
            hand = [] if over else [run.key(done + k)]
            run.work(k, attempt, at=BEGAN + end, ended=said, in_hand=hand, page=None if over else 12 + k, assigned=800)
            run.beat(k, attempt, working_seconds=end - begin - 55)
    run.fence(3, 0, "machine lost: SpotInterruption", at=3160)
    run.fence(3, 1, "silent: its heartbeat stood still for 60 s", at=7060)
    run.beat(4, stage=Stage.WORKING)
    run.spend(machines=WORKERS)
    return run
