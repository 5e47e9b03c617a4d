"""The sandbox with real child processes: limits, deaths, confinement, recycling. Nothing is mocked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.failures import Category, ConversionError, Failure, Phase
from tasks.engines import confine, frames
from tasks.engines.protocol import Asset, EngineName, EngineResult, Limits
from tasks.engines.sandbox import Aborted, Sandbox

ROOT = Path(__file__).resolve().parents[2]
MakeSandbox = Callable[..., Sandbox]


@pytest.fixture
def dummy(tmp_path: Path) -> Iterator[MakeSandbox]:
    with contextlib.ExitStack() as stack:

        def make(
            limits: dict[str, Any] | None = None, engine: EngineName = EngineName.DUMMY, **settings: Any
        ) -> Sandbox:
            scratch = tmp_path / "scratch"
            scratch.mkdir(exist_ok=True)
            given = {"page_timeout": 20.0, "document_timeout": 60.0, "memory_mb": 512} | (limits or {})
            return stack.enter_context(Sandbox(engine, Limits(**given), scratch=scratch, **settings))

        yield make


def document(tmp_path: Path, words: str = "", name: str = "in.pdf") -> Path:
    pdf = tmp_path / "scratch" / name
    pdf.write_text(f"%PDF-dummy {words}\n")
    return pdf


def failure(sandbox: Sandbox, tmp_path: Path, words: str) -> Failure:
    with pytest.raises(ConversionError) as caught:
        sandbox.convert(document(tmp_path, words), tmp_path / "scratch" / "out", [])
    return caught.value.failure


def works(sandbox: Sandbox, tmp_path: Path) -> EngineResult:
    return sandbox.convert(document(tmp_path, name="good.pdf"), tmp_path / "scratch" / "out", [])


def gone(pid: int, within: float = 3.0) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


class TestConversion:
    def test_pages_progress_assets_and_warnings_come_through(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy()
        assert sandbox.ready() == {"dummy": "2"}
        seen: list[tuple[int, int]] = []
        out = tmp_path / "scratch" / "out"
        pdf = document(tmp_path, "pages=3 gap=2 assets=2 warn")
        result = sandbox.convert(pdf, out, [], lambda page, pages: seen.append((page, pages)))
        assert seen == [(1, 3), (2, 3), (3, 3)]
        assert [page.gap for page in result.pages] == [None, "the script says so", None]
        assert [asset.path.name for asset in result.assets] == ["0.txt", "1.txt"]
        assert all(asset.path.read_text().startswith("asset ") for asset in result.assets)
        assert all(asset.placeholder in result.pages[0].text for asset in result.assets)
        assert result.warnings == ["the script says so"]
        assert sandbox.inspect(pdf, []).pages == 3

    def test_what_libraries_print_does_not_disturb_the_frames(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy()
        result = sandbox.convert(document(tmp_path, "noise pages=2"), tmp_path / "scratch" / "out", [])
        assert len(result.pages) == 2

    def test_a_long_document_crosses_the_pipe(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        result = dummy().convert(document(tmp_path, "text_bytes=20000000"), tmp_path / "scratch" / "out", [])
        assert len(result.pages[0].text) > 19_999_900

    def test_a_document_outside_the_scratch_folder_is_a_bug_of_the_caller(
        self, dummy: MakeSandbox, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere.pdf").write_text("%PDF-dummy\n")
        with pytest.raises(ValueError, match="scratch"):
            dummy().convert(tmp_path / "elsewhere.pdf", tmp_path / "scratch" / "out", [])


class TestFailures:
    @pytest.mark.parametrize(
        ("words", "category", "retryable", "message"),
        [
            ("fail=DAMAGED", Category.DAMAGED, False, "script"),
            ("fail=TIMEOUT retryable=no", Category.TIMEOUT, False, "script"),
            ("crash", Category.CRASHED, True, "SIGSEGV: a bug in a library"),
            ("exit=3", Category.CRASHED, True, "status 3"),
            ("memory", Category.MEMORY, False, "512 MiB"),
            ("raise", Category.ENGINE, False, "KeyError: 'the script says so'"),
            ("pages=5001", Category.TOO_LARGE, False, "5001 pages"),
        ],
    )
    def test_every_end_of_a_document_is_a_record_and_the_next_one_works(
        self, dummy: MakeSandbox, tmp_path: Path, words: str, category: Category, retryable: bool, message: str
    ) -> None:
        sandbox = dummy()
        record = failure(sandbox, tmp_path, words)
        assert (record.category, record.retryable) == (category, retryable)
        assert message in record.message
        assert len(works(sandbox, tmp_path).pages) == 1

    def test_a_crash_that_happens_once(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy()
        assert failure(sandbox, tmp_path, "crash-once").category is Category.CRASHED
        assert sandbox.convert(document(tmp_path, "crash-once"), tmp_path / "scratch" / "out", []).pages

    def test_too_many_bytes_are_refused_before_the_child_sees_them(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        record = failure(dummy({"max_bytes": 10}), tmp_path, "pages=1")
        assert (record.category, record.phase) == (Category.TOO_LARGE, Phase.OPEN)

    def test_a_child_killed_by_someone_else_is_retryable(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy()
        sandbox.ready()
        pid = sandbox.pid
        assert pid is not None
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        record = failure(sandbox, tmp_path, "hang")
        assert (record.category, record.retryable) == (Category.CRASHED, True)
        assert "SIGKILL" in record.message

    def test_an_engine_that_does_not_load_says_why(self, dummy: MakeSandbox) -> None:
        sandbox = dummy(engine_options={"pages": "many"})
        with pytest.raises(ConversionError, match=r"'dummy' does not start: ValidationError: .*pages") as caught:
            sandbox.ready()
        assert caught.value.failure.category is Category.ENGINE


class TestTime:
    def test_a_hanging_page_is_killed_and_counts_as_starved(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy({"page_timeout": 0.5})
        sandbox.ready()
        begun = time.monotonic()
        record = failure(sandbox, tmp_path, "hang")
        assert time.monotonic() - begun < 3
        assert (record.category, record.retryable, record.page) == (Category.TIMEOUT, True, 1)
        assert "time limit of page 1, 0.5 s" in record.message
        assert len(works(sandbox, tmp_path).pages) == 1

    def test_a_spinning_page_is_not_retryable_unless_it_was_starved(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy({"page_timeout": 1.0})
        sandbox.ready()
        record = failure(sandbox, tmp_path, "spin")
        assert record.category is Category.TIMEOUT
        assert record.retryable == ("busy" in record.message)

    def test_each_page_has_its_own_clock(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy({"page_timeout": 1.0})
        result = sandbox.convert(document(tmp_path, "pages=6 seconds=0.25"), tmp_path / "scratch" / "out", [])
        assert len(result.pages) == 6

    def test_the_document_has_a_clock_too(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        record = failure(dummy({"document_timeout": 1.0}), tmp_path, "pages=100 seconds=0.1")
        assert record.category is Category.TIMEOUT
        assert "the document's time limit, 1 s" in record.message
        assert record.page is not None
        assert 2 <= record.page <= 11

    def test_kill_aborts_the_conversion_in_hand_until_started_again(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy()
        sandbox.ready()
        threading.Timer(0.3, sandbox.kill).start()
        begun = time.monotonic()
        with pytest.raises(Aborted):
            sandbox.convert(document(tmp_path, "hang"), tmp_path / "scratch" / "out", [])
        assert time.monotonic() - begun < 3
        with pytest.raises(Aborted):
            works(sandbox, tmp_path)
        sandbox.start()
        assert len(works(sandbox, tmp_path).pages) == 1

    def test_a_progress_callback_that_raises_leaves_no_conversion_behind(
        self, dummy: MakeSandbox, tmp_path: Path
    ) -> None:
        sandbox = dummy()

        def refuse(page: int, pages: int) -> None:
            raise RuntimeError("fenced")

        with pytest.raises(RuntimeError, match="fenced"):
            sandbox.convert(document(tmp_path, "pages=3 seconds=0.2"), tmp_path / "scratch" / "out", [], refuse)
        assert len(works(sandbox, tmp_path).pages) == 1


class TestChildren:
    def test_replaced_after_a_number_of_documents_by_one_that_is_warm(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy(recycle_after=3)
        pids = []
        for _ in range(7):
            sandbox.ready()
            pids.append(sandbox.pid)
            works(sandbox, tmp_path)
        assert pids[0] == pids[1] == pids[2] != pids[3]
        assert pids[3] == pids[4] == pids[5] != pids[6]
        assert gone(pids[0] or 0)

    def test_replaced_after_a_failure_but_not_after_a_refusal(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy()
        sandbox.ready()
        first = sandbox.pid
        failure(sandbox, tmp_path, "fail=NOT_A_PDF")
        assert sandbox.pid == first
        failure(sandbox, tmp_path, "fail=ENGINE")
        assert sandbox.pid != first

    def test_close_leaves_no_process(self, tmp_path: Path) -> None:
        with Sandbox(EngineName.DUMMY, Limits(), scratch=tmp_path) as sandbox:
            sandbox.ready()
            pid = sandbox.pid
        assert pid is not None
        assert gone(pid)
        with pytest.raises(ValueError, match="closed"):
            sandbox.start()

    def test_it_dies_with_its_worker_and_not_with_the_thread_that_started_it(self, tmp_path: Path) -> None:
        (tmp_path / "in.pdf").write_text("%PDF-dummy spin\n")
        script = """
            import sys, threading, time
            from pathlib import Path
            from tasks.engines.protocol import EngineName, Limits
            from tasks.engines.sandbox import Sandbox
            scratch = Path(sys.argv[1])
            sandbox = Sandbox(EngineName.DUMMY, Limits(), scratch=scratch)
            starter = threading.Thread(target=sandbox.start)
            starter.start()
            starter.join()
            time.sleep(0.3)
            sandbox.ready()
            begun = lambda *_: print(sandbox.pid, flush=True)
            sandbox.convert(scratch / "in.pdf", scratch / "out", [], begun)
        """
        worker = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            assert worker.stdout is not None
            pid = int(worker.stdout.readline())
            assert not gone(pid, within=0.2)
        finally:
            worker.kill()
            worker.communicate()
        assert gone(pid, within=2.0)


class TestConfinement:
    def test_limits_and_environment_of_the_child(
        self, dummy: MakeSandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "GITHUB_TOKEN"):
            monkeypatch.setenv(name, "secret-value")
        sandbox = dummy({"document_timeout": 100.0})
        report = sandbox.confinement()
        assert set(report) == {"network", "files", "user"}
        works(sandbox, tmp_path)
        proc = Path(f"/proc/{sandbox.pid}")
        environment = proc.joinpath("environ").read_bytes()
        assert b"secret-value" not in environment
        assert b"OMP_NUM_THREADS=1" in environment
        status = dict(
            line.split(":\t", 1) for line in proc.joinpath("status").read_text().splitlines() if ":\t" in line
        )
        assert status["NoNewPrivs"] == "1"
        limits = {line[:26].strip(): line[26:].split() for line in proc.joinpath("limits").read_text().splitlines()}
        assert limits["Max address space"][0] == str(512 << 20)
        assert limits["Max core file size"][0] == "0"
        assert 160 <= int(limits["Max cpu time"][0]) <= 170
        if report["user"].startswith("nobody"):
            assert status["Uid"].split() == [str(confine.NOBODY)] * 4
            assert not status["Groups"].split()
        if "namespace" in report["network"]:
            assert proc.joinpath("ns/net").readlink() != Path("/proc/self/ns/net").readlink()

    def test_what_a_confined_process_cannot_reach(self, tmp_path: Path) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        (tmp_path / "secret").write_text("x")
        (tmp_path / "secret").chmod(0o644)
        script = """
            import os, socket, subprocess, sys
            from pathlib import Path
            from tasks.engines import confine
            scratch, secret, parent = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
            report = confine.Confinement(scratch, Path(confine.__file__).parents[1]).report
            def attempt(name, action):
                try:
                    action()
                except OSError as error:
                    print(name, type(error).__name__)
                else:
                    print(name, "done")
            attempt("secret", secret.read_text)
            attempt("environ", Path(f"/proc/{parent}/environ").read_bytes)
            attempt("list", lambda: os.listdir(secret.parent))
            attempt("write", lambda: (secret.parent / "new").write_text("x"))
            attempt("link", lambda: (scratch / "link").symlink_to(secret))
            attempt("run", lambda: subprocess.run(["/bin/true"], check=True))
            attempt("connect", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[4])), timeout=2))
            attempt("scratch", lambda: (scratch / "new").write_text("x"))
            import email.mime.text, decimal, sqlite3
            print("import done")
            print("report", report["files"][:8], report["network"] != "not confined")
        """
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            confine_me = [sys.executable, "-c", textwrap.dedent(script), str(scratch), str(tmp_path / "secret")]
            os.chown(scratch, confine.NOBODY, confine.NOBODY) if os.geteuid() == 0 else None
            done = subprocess.run(
                [*confine_me, str(os.getpid()), str(server.getsockname()[1])],
                cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
            )  # fmt: skip
        seen = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        assert seen["scratch"] == "done"
        assert seen["import"] == "done"
        files, network = seen["report"].split()
        if files == "Landlock":
            denied = {name for name, outcome in seen.items() if outcome == "PermissionError"}
            assert {"secret", "environ", "list", "write", "link", "run"} <= denied
        if network == "True":
            assert seen["connect"] != "done"

    def test_an_asset_that_is_a_link_is_not_taken(self, dummy: MakeSandbox, tmp_path: Path) -> None:
        sandbox = dummy()
        out = tmp_path / "scratch" / "out"
        out.mkdir()
        (out / "a.txt").symlink_to("/etc/passwd")
        for path in (out / "a.txt", Path("/etc/passwd"), out / ".." / "in.pdf"):
            result = EngineResult(pages=[], assets=[Asset(path=path, extension="txt", placeholder="a")])
            with pytest.raises(ConversionError, match="makes no sense"):
                sandbox._take_back(out, result)


class TestFrames:
    @given(
        st.lists(st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers(), max_size=3)),
        st.integers(1, 9),
    )
    def test_messages_survive_any_cutting(self, messages: list[dict[str, Any]], size: int) -> None:
        stream = b"".join(map(frames.encode, messages))
        splitter = frames.Splitter()
        received = [
            message for start in range(0, len(stream), size) for message in splitter.feed(stream[start : start + size])
        ]
        assert received == messages

    @pytest.mark.parametrize(
        "data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x02{{", b"GET / HTTP/1.1"]
    )
    def test_noise_is_refused(self, data: bytes) -> None:
        with pytest.raises(frames.BadFrame):
            frames.Splitter().feed(data)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Path]]:
    """One child for all: loading the engine takes seconds."""
    scratch = tmp_path_factory.mktemp("layout")
    with Sandbox(EngineName.LAYOUT, Limits(max_pages=3, max_pixels=4_000_000), scratch=scratch) as sandbox:
        yield sandbox, scratch


class TestLayout:
    @pytest.fixture
    def sandbox(self, layout: tuple[Sandbox, Path]) -> Sandbox:
        return layout[0]

    @pytest.fixture
    def pdf(self, layout: tuple[Sandbox, Path]) -> Path:
        return layout[1] / "in.pdf"

    def convert(self, sandbox: Sandbox, pdf: Path, passwords: list[str] | None = None) -> EngineResult:
        return sandbox.convert(pdf, pdf.parent / "out", passwords or [])

    def refusal(self, sandbox: Sandbox, pdf: Path, passwords: list[str] | None = None) -> Failure:
        with pytest.raises(ConversionError) as caught:
            self.convert(sandbox, pdf, passwords)
        assert str(pdf.parent) not in caught.value.failure.message
        return caught.value.failure

    def test_text_becomes_markdown_on_one_thread(self, sandbox: Sandbox, pdf: Path) -> None:
        with pymupdf.open() as made:
            for number in (1, 2):
                made.new_page().insert_text((72, 72), f"Hello from page {number}, a sentence to read.")
            made.save(pdf)
        result = self.convert(sandbox, pdf)
        assert [page.number for page in result.pages] == [1, 2]
        assert "Hello from page 2" in result.pages[1].text
        assert len(list(Path(f"/proc/{sandbox.pid}/task").iterdir())) <= 2
        assert sandbox.inspect(pdf, []).pages == 2
        assert "pymupdf4llm" in sandbox.ready()

    def test_what_is_no_pdf(self, sandbox: Sandbox, pdf: Path) -> None:
        for content, category in (
            (b"", Category.EMPTY),
            (b"<html><body>Not found</body></html>", Category.NOT_A_PDF),
            (b"\x89PNG\r\n\x1a\n", Category.NOT_A_PDF),
            (b"%PDF-1.7\n", Category.DAMAGED),
        ):
            pdf.write_bytes(content)
            record = self.refusal(sandbox, pdf)
            assert (record.category, record.phase, record.retryable) == (category, Phase.OPEN, False)

    def test_encrypted_documents_open_with_a_password(self, sandbox: Sandbox, pdf: Path) -> None:
        with pymupdf.open() as made:
            made.new_page().insert_text((72, 72), "The secret recipe of this house.")
            made.save(pdf, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sesame", owner_pw="owner")
        assert self.refusal(sandbox, pdf).category is Category.ENCRYPTED
        assert "none of the 1 given fits" in self.refusal(sandbox, pdf, ["wrong"]).message
        assert "secret recipe" in self.convert(sandbox, pdf, ["wrong", "sesame"]).pages[0].text
        assert sandbox.inspect(pdf, ["sesame"]).encrypted

    def test_too_many_pages_and_too_large_pages(self, sandbox: Sandbox, pdf: Path) -> None:
        with pymupdf.open() as made:
            for _ in range(4):
                made.new_page()
            made.save(pdf)
        assert self.refusal(sandbox, pdf).category is Category.TOO_LARGE
        with pymupdf.open() as made:
            made.new_page(width=3000, height=3000).insert_text((72, 72), "Words on a huge page")
            made.save(pdf)
        result = self.convert(sandbox, pdf)
        assert "Words on a huge page" in result.pages[0].text
        assert "too large to render" in result.warnings[0]
