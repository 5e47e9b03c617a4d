"""The store in trouble, seen from the command line: failing, refusing, away, full, read-only. Nothing twice, nothing half."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.bucket import Bucket, check_bucket
from chaos.harness import Command, Place, make_documents, wrong_outputs
from chaos.processes import wait_for
from deployments.rehearsal.faulty_s3 import FaultyS3

MakePlace = Callable[..., Place]
DOCUMENTS = 40


@pytest.fixture
def bucket(moto_s3: Any) -> Bucket:
    return Bucket(moto_s3)


def until_done(place: Place, command: Command, calls: int = 4, **more: str) -> int:
    """Call again while the run stops before its end. Returns the number of calls."""
    for number in range(1, calls + 1):
        status = command.wait(400)
        assert "Traceback" not in command.said, command.said
        assert status in (0, 1, 3), command.said
        result = command.result()
        assert result["duplicates"] == 0
        if status == 0:
            return number
        command = place.convert("--retry-failed", **more)
    raise AssertionError(f"not done after {calls} calls: {command.said[-4000:]}")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_s3_that_fails_throttles_and_loses_responses(
    bucket: Bucket, moto_s3: Any, new_place: MakePlace, seed: int
) -> None:
    script = "seconds=0.1 assets=1"
    bucket.fill(DOCUMENTS, script)
    place = new_place(source=f"{bucket.url}/in", output=f"{bucket.url}/out")
    with FaultyS3(moto_s3.url, seed, error_rate=0.05, slowdown_rate=0.05, lost_response_rate=0.05) as proxy:
        command = place.convert(AWS_ENDPOINT_URL=proxy.url)
        calls = until_done(place, command, AWS_ENDPOINT_URL=proxy.url)
    assert calls == 1, command.said
    assert min(proxy.counts[fate] for fate in ("error", "slowdown", "lost")) >= 10, proxy.counts
    check_bucket(bucket, place, DOCUMENTS, script)
    assert place.left_over() == {}


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seconds", [10, 30])
def test_s3_that_is_away_for_a_while(bucket: Bucket, moto_s3: Any, new_place: MakePlace, seconds: int) -> None:
    script = "seconds=0.3 assets=1"
    bucket.fill(DOCUMENTS, script)
    place = new_place(source=f"{bucket.url}/in", output=f"{bucket.url}/out")
    with FaultyS3(moto_s3.url) as proxy:
        command = place.convert(AWS_ENDPOINT_URL=proxy.url)
        wait_for("some documents", lambda: len(bucket.markdown()) >= 4 or not command.running, 240, pause=0.5)
        with proxy.outage():
            time.sleep(seconds)
        until_done(place, command, AWS_ENDPOINT_URL=proxy.url)
    assert proxy.counts["outage"] > 0
    check_bucket(bucket, place, DOCUMENTS, script)
    assert place.left_over() == {}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A tmpfs of that size at `folder`; the function remounts it with other options."""
    folder.mkdir(parents=True)

    def mount(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["mount", *words], capture_output=True, text=True, check=False)

    done = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    def remount(options: str) -> None:
        # EBUSY while somebody has a file open for writing.
        wait_for(
            f"remount {options}", lambda: mount("-o", f"remount,{options}", str(folder)).returncode == 0, pause=0.01
        )

    try:
        yield remount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def one_line(command: Command, *words: str) -> None:
    """The last words on stderr are one line that names the cause; no traceback before it."""
    assert "Traceback" not in command.said, command.said
    last = [line for line in command.said.splitlines() if line.startswith("pdf-flows: ")]
    assert len(last) == 1, command.said[-3000:]
    assert all(word in last[0] for word in words), last


def whole(place: Place) -> int:
    """How many documents are there, each with all of its text."""
    found = list(place.output.glob("*.md"))
    assert all(path.stat().st_size > 200_000 and path.read_text().count("nobody read") > 4000 for path in found)
    return len(found)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(place: Place) -> None:
    make_documents(place.input, DOCUMENTS, "seconds=0.1 text_bytes=200000")
    with small_disk(place.output, "5m") as remount:
        command = place.convert()
        assert command.wait() == 3, command.said
        one_line(command, "DISK_FULL", "No space left on device")
        some = whole(place)
        assert 5 < some < DOCUMENTS
        published = {path.name: path.stat().st_ino for path in place.output.glob("*.md")}

        # Still full: at once, and as clearly.
        again = place.convert()
        assert again.wait() in (2, 3), again.said
        one_line(again, "o space left")

        remount("size=64m")
        last = place.convert()
        assert last.wait() == 0, last.said
        assert (last.result()["remaining"], last.result()["duplicates"]) == (0, 0)
        assert whole(place) == DOCUMENTS
        assert all((place.output / name).stat().st_ino == inode for name, inode in published.items())
        assert place.audit()["converted"] == DOCUMENTS
        assert wrong_outputs(place.input, place.output, 0) == []
        assert place.left_over() == {}


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_an_output_that_turns_read_only_stops_the_run(place: Place) -> None:
    make_documents(place.input, DOCUMENTS, "seconds=0.3 assets=1")
    with small_disk(place.output, "64m") as remount:
        command = place.convert()
        wait_for("some documents", lambda: len(list(place.output.glob("*.md"))) >= 3, pause=0.02)
        remount("ro")
        try:
            assert command.wait() == 3, command.said
        finally:
            remount("rw")
        one_line(command, "FORBIDDEN", "Read-only file system")
        assert 3 <= len(list(place.output.glob("*.md"))) < DOCUMENTS
        assert place.left_over() == {}
        last = place.convert()
        assert last.wait() == 0, last.said
        assert wrong_outputs(place.input, place.output, 1) == []
        assert place.audit()["converted"] == DOCUMENTS
