"""The worker's side of the two helper processes: preparers, and the device. Threads of many pages use them at once.

Either kind may die (the kernel kills what takes too much memory): it is started anew, and what it had in hand is done again.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from tasks.corpus.failures import Category, ConversionError, PdfFlowsError, Phase
from tasks.engines.dolphin.arena import Arena, Place
from tasks.engines.dolphin.grammar import Prompt
from tasks.engines.dolphin.sequences import End
from tasks.engines.dolphin.settings import Loaded, ReadingSettings
from tasks.engines.process import ChildProcess

LOAD_TIMEOUT: Final = 600.0
"""Seconds for the model to be read from disk and moved to the device."""
PREPARE_TIMEOUT: Final = 120.0
"""Seconds for one crop; 0.1 is much."""
STUCK_SECONDS: Final = 300.0
"""A device that has work and says nothing for so long hangs; compiling for a new GPU takes a minute or two."""
MOST_STARTS: Final = 3
"""How often in a row the device's process may end before it has answered anything."""
_CUDA: Final = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
    "PYTORCH_CUDA_ALLOC_CONF", "CC", "CXX", "CUDA_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
)  # fmt: skip


class EngineLost(PdfFlowsError):
    """The engine's own processes cannot be kept alive: nothing of a document's doing. Ends the worker."""


class ReadText(NamedTuple):
    """What the model wrote."""

    text: str
    tokens: int
    end: End
    looped: bool


class Preparers:
    """Some processes that prepare pixels; each serves one request at a time."""

    def __init__(self, count: int, arena: Arena, settings: dict[str, Any], scratch: Path) -> None:
        self._start = {"settings": settings}
        self._arena, self._scratch = arena, scratch
        self._closed = False
        self._all: set[ChildProcess] = set()
        self._free: queue.SimpleQueue[ChildProcess] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(self._spawn())

    def request(self, message: dict[str, Any]) -> Any:
        """The result of a request. Raises ConversionError (of this page), EngineLost."""
        for last in (False, True):
            preparer = self._free.get()
            try:
                if not preparer.alive:
                    preparer = self._replace(preparer)
                preparer.send(message)
                while (reply := preparer.receive(PREPARE_TIMEOUT)) is not None and reply.get("kind") == "ready":
                    pass
            except queue.Empty:
                preparer.kill()
                preparer.wait(10.0)  # else its late answer would be taken for that of the next request
                reply = {"kind": "failure", "message": f"not prepared within {PREPARE_TIMEOUT:g} s"}
            finally:
                self._free.put(preparer)
            if self._closed:
                raise EngineLost("stopped")
            if reply is not None:
                if reply.get("kind") == "result":
                    return reply["result"]
                raise ConversionError.of(
                    Category.ENGINE, Phase.CONVERT, f"no image for the model: {reply.get('message')}"
                )
            if last:
                raise ConversionError.of(Category.CRASHED, Phase.CONVERT, "the process that prepares images died twice")
        raise AssertionError

    def close(self) -> None:
        """End the processes; who waits for one gets EngineLost."""
        self._closed = True
        for preparer in list(self._all):
            preparer.kill()

    def _spawn(self) -> ChildProcess:
        preparer = ChildProcess(
            self._start,
            threads=1,
            scratch=self._scratch,
            module="tasks.engines.dolphin.preparing",
            shared=self._arena.descriptor,
        )
        self._all.add(preparer)
        if self._closed:
            preparer.kill()
        return preparer

    def _replace(self, dead: ChildProcess) -> ChildProcess:
        if self._closed:
            raise EngineLost("stopped")
        self._all.discard(dead)
        return self._spawn()


class DeviceClient:
    """The device's process. `read` may be called by any thread."""

    def __init__(self, settings: ReadingSettings, arena: Arena, scratch: Path, module: str) -> None:
        self._settings, self._arena, self._scratch, self._module = settings, arena, scratch, module
        self._lock = threading.Lock()
        self._keys = itertools.count()
        self._pending: dict[int, tuple[dict[str, Any], Future[ReadText]]] = {}
        self._stats: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._closed = False
        self._loaded: Future[Loaded] = Future()
        self._lost: PdfFlowsError | None = None
        self._process = self._spawn()
        threading.Thread(target=self._run, name="device", daemon=True).start()

    def ready(self, timeout: float = LOAD_TIMEOUT) -> Loaded:
        """Wait for the model. Raises ConversionError (ENGINE) with the cause where it cannot be loaded, EngineLost."""
        try:
            return self._loaded.result(timeout)
        except TimeoutError:
            raise ConversionError.of(
                Category.ENGINE, Phase.OPEN, f"the model was not loaded within {timeout:g} s"
            ) from None

    @property
    def lost(self) -> PdfFlowsError | None:
        """Why nothing will be read any more; None as long as it will."""
        return self._lost

    def read(self, prompt: Prompt, place: Place, top: int, left: int) -> Future[ReadText]:
        """Have an image read. It stays in the arena until it was. The future raises EngineLost."""
        future: Future[ReadText] = Future()
        with self._lock:
            if self._lost is not None:
                self._arena.give_back(place)
                future.set_exception(self._lost)
                return future
            key = next(self._keys)
            message = {"op": "read", "key": key, "prompt": prompt.value, "place": list(place), "top": top, "left": left}
            self._pending[key] = message, future
            self._process.send(message)
        future.add_done_callback(lambda _: self._arena.give_back(place))
        return future

    def cancel(self, futures: Collection[Future[ReadText]]) -> None:
        """Nobody waits for these any more."""
        with self._lock:
            keys = [key for key, (_, future) in self._pending.items() if future in futures]
            self._process.send({"op": "cancel", "keys": keys})
            gone = [self._pending.pop(key)[1] for key in keys]
        for future in gone:
            future.cancel()

    def stats(self, timeout: float = 10.0) -> dict[str, Any]:
        """What the device did so far. queue.Empty if it does not say."""
        self._process.send({"op": "stats"})
        return self._stats.get(timeout=timeout)

    def close(self) -> None:
        """End the process; what waits for it gets EngineLost."""
        self._closed = True
        self._process.kill()
        self._process.wait(10.0)

    def _spawn(self) -> ChildProcess:
        start = {"settings": self._settings.model_dump(mode="json")}
        return ChildProcess(
            start,
            threads=self._settings.threads or 1,
            scratch=self._scratch,
            module=self._module,
            shared=self._arena.descriptor,
            inherited=_CUDA,
        )

    def _run(self) -> None:
        """Deliver what comes; start the process anew when it ends."""
        starts, answered = 1, False
        while True:
            try:
                message = self._process.receive(STUCK_SECONDS)
            except queue.Empty:
                with self._lock:
                    stuck = self._loaded.done() and bool(self._pending)
                if stuck:
                    self._process.kill()
                continue
            match None if message is None else message.get("kind"):
                case "text" if message is not None:
                    starts, answered = 0, True
                    self._deliver(message)
                case "stats" if message is not None:
                    self._stats.put(message)
                case "pulse":
                    continue
                case "ready" if message is not None:
                    self._greet(message)
                case "broken" | "lost" if message is not None:
                    why = str(message.get("message"))
                    if not answered or message["kind"] == "broken":
                        return self._give_up(ConversionError.of(Category.ENGINE, Phase.OPEN, why))
                case _:
                    self._process.wait(10.0)
                    if self._closed:
                        return self._give_up(EngineLost("stopped"))
                    if starts >= MOST_STARTS:
                        last = self._process.diagnosis.rpartition("\n")[2]
                        why = last or f"it ended with status {self._process.returncode}"
                        return self._give_up(EngineLost(f"the process with the model does not stay alive: {why}"))
                    starts += 1
                    with self._lock:
                        self._process = self._spawn()
                        if self._closed:  # `close` has ended the one before
                            self._process.kill()
                        for request, _ in self._pending.values():
                            self._process.send(request)

    def _greet(self, message: dict[str, Any]) -> None:
        if self._loaded.done():
            return
        try:
            self._loaded.set_result(Loaded.model_validate({k: v for k, v in message.items() if k != "kind"}))
        except ValidationError as error:
            self._loaded.set_exception(EngineLost(f"the process with the model talks nonsense: {error}"))

    def _deliver(self, message: dict[str, Any]) -> None:
        with self._lock:
            _, future = self._pending.pop(int(message["key"]), (None, None))
        if future is not None and future.set_running_or_notify_cancel():
            end = End(message["end"])
            future.set_result(ReadText(str(message["text"]), int(message["tokens"]), end, bool(message["looped"])))

    def _give_up(self, error: PdfFlowsError) -> None:
        with self._lock:
            self._lost = error if isinstance(error, EngineLost) else EngineLost(str(error))
            pending, self._pending = list(self._pending.values()), {}
        if not self._loaded.done():
            self._loaded.set_exception(error)
        for _, future in pending:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._lost)
