"""Fixtures for all tests: a real S3 server (moto, over HTTP), stores of both kinds, and root without root's powers."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import signal
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from moto.moto_server.utilities import RegexConverter
from moto.server import ThreadedMotoServer

from deployments.rehearsal.atomic_s3 import atomic_writes
from tasks.corpus.store import Store
from tasks.corpus.store_folder import FolderStore
from tasks.corpus.store_s3 import S3Store

NEED_TORCH = (
    "parity/test_reader.py",
    "parity/test_pool.py",
    "parity/test_resume.py",
    "parity/test_model.py",
    "parity/test_engine_kills.py",
    "parity/test_engine_lost.py",
    "flows/test_dolphin.py",
    "unit/test_checkpoint.py",
    "unit/test_dolphin_device.py",
    "unit/test_weights.py",
    "unit/test_weights_kept.py",
)
"""Tests that `make test` leaves out, and says so, where EXTRAS=dolphin was never asked for."""
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
"""Workers would ask the metadata service, and wait a second for nobody; its own tests set up one of theirs."""
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is loaded: several processes, each with threads for all cores that spin while they wait, are ten times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts this in the background has it ignored, and so would every command that a test sends Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
collect_ignore = [] if importlib.util.find_spec("torch") else list(NEED_TORCH)


def pytest_report_header() -> list[str]:
    """What is left out."""
    if not collect_ignore:
        return []
    return [f"NOT RUN, no torch here (make test EXTRAS=dolphin runs them): {', '.join(collect_ignore)}"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Once more at the end: with -q there is no header."""
    for line in pytest_report_header():
        terminalreporter.write_line(line, yellow=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Names that are no UTF-8 (their lone surrogates) do not pass between pytest-xdist's processes: as escapes they do."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    if isinstance(report.longrepr, str) or hasattr(report.longrepr, "reprcrash"):
        text = str(report.longrepr)
        if text != _encodable(text):
            report.longrepr = _encodable(text)
    return report


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of these tests."""
    # Here and not in chaos/conftest.py: pytest reads options before it looks into folders that no argument names.
    parser.addoption("--chaos-seed", type=int, default=20, help="What the chaos tests draw their instants from.")
    parser.addoption("--fuzz-seed", type=int, default=20, help="What broken PDFs are drawn from.")
    parser.addoption("--fuzz-mutants", type=int, default=2000, help="How many broken PDFs the soak converts.")
    parser.addoption("--fuzz-keep", help="A folder for the broken PDFs that a person should look at.")
    parser.addoption("--fuzz-only", type=int, help="Convert the broken PDF of this number alone.")


class MotoS3(NamedTuple):
    """A running S3 server. AWS_ENDPOINT_URL and dummy credentials are in the environment, for child processes too."""

    url: str
    client: Any

    def new_bucket(self) -> str:
        """A fresh bucket's `s3://` address."""
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        return f"s3://{bucket}"


def _match_newlines(self: RegexConverter, url_map: Any, *items: Any) -> None:
    super(RegexConverter, self).__init__(url_map)
    self.regex = f"(?s:{items[0]})"


@pytest.fixture(scope="session")
def moto_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoS3]:
    """One moto server for the session, on a free loopback port."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    nothing = str(tmp_path_factory.mktemp("aws") / "none")
    with atomic_writes(), pytest.MonkeyPatch.context() as patch:
        # Real S3 takes keys with newlines; moto's routes say "." and mean any character.
        patch.setattr(RegexConverter, "__init__", _match_newlines)
        for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", nothing)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", nothing)
        patch.setenv("NO_PROXY", ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])))
        yield MotoS3(url, boto3.session.Session().client("s3", region_name="us-east-1"))
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty, writable store: a folder that is yet to be made, or a prefix in a fresh bucket."""
    if request.param == "folder":
        return FolderStore.from_url(str(tmp_path / "store"), create=True)
    moto: MotoS3 = request.getfixturevalue("moto_s3")
    return S3Store.from_url(f"{moto.new_bucket()}/some/prefix")


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def _without_override() -> Iterator[None]:
    """While it lasts, file modes hold for this thread even if it is root: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH are off."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _CapHeader(0x20080522, 0), (_CapData * 2)()
    if libc.capget(ctypes.byref(header), data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    before = data[0].effective
    data[0].effective = before & ~0b110
    if libc.capset(ctypes.byref(header), data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        data[0].effective = before
        libc.capset(ctypes.byref(header), data)


@pytest.fixture
def as_user() -> Callable[[], AbstractContextManager[None]]:
    """`with as_user(): ...` - chmod counts for this thread, also where the tests run as root."""
    return _without_override
