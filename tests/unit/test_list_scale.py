"""Listings stream: what is held at a time does not grow with the number of objects."""

from __future__ import annotations

import itertools
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import MotoS3

from tasks.corpus.store import ObjectInfo
from tasks.corpus.store_folder import FolderStore
from tasks.corpus.store_s3 import S3Store

Endless = Callable[[int], S3Store]
PAGE = 1000


@pytest.fixture
def listing(moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Endless, list[str]]]:
    """Makes a store of N objects, listed by a server that makes up its pages; and the requests it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        objects = 0
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            start = int(parse_qs(urlsplit(self.path).query).get("continuation-token", ["0"])[0])
            end = min(start + PAGE, self.objects)
            parts = [
                '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            ]
            parts.append(
                f"<EncodingType>url</EncodingType><IsTruncated>{'true' if end < self.objects else 'false'}</IsTruncated>"
            )
            parts.append(f"<NextContinuationToken>{end}</NextContinuationToken>" if end < self.objects else "")
            parts += [
                f"<Contents><Key>in/pdfs/paper_{i:08d}.pdf</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{i:032x}&quot;</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><Size>{i}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
                for i in range(start, end)
            ]
            body = "".join([*parts, "</ListBucketResult>"]).encode()
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")

    def make(objects: int) -> S3Store:
        Handler.objects = objects
        return S3Store.from_url("s3://bucket/in")

    yield make, asked
    server.shutdown()
    server.server_close()
    thread.join()


def peak(objects: Iterator[ObjectInfo]) -> tuple[int, int]:
    """Number of objects listed, and the most bytes that listing them held."""
    tracemalloc.start()
    try:
        return sum(1 for _ in objects), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_s3_asks_for_the_next_page_when_the_last_is_used_up(listing: tuple[Endless, list[str]]) -> None:
    make, asked = listing
    objects = make(1_000_000).list()
    first = list(itertools.islice(objects, 1500))
    assert first[-1] == ObjectInfo("pdfs/paper_00001499.pdf", 1499, f"{1499:032x}")
    assert len(asked) == 2


def test_s3_holds_a_page_at_a_time(listing: tuple[Endless, list[str]]) -> None:
    make, _ = listing
    peak(make(PAGE).list())  # what boto3 loads once is not to be counted
    few, of_few = peak(make(2 * PAGE).list())
    many, of_many = peak(make(8 * PAGE).list())
    assert (few, many) == (2 * PAGE, 8 * PAGE)
    assert of_many < 1.5 * of_few


def test_a_folder_holds_the_names_of_one_branch(tmp_path: Path) -> None:
    def tree(folders: int) -> FolderStore:
        root = tmp_path / str(folders)
        for i in range(folders):
            at = root / f"{i:03d}"
            at.mkdir(parents=True)
            fd = os.open(at, os.O_RDONLY)
            for k in range(400):
                os.mknod(f"paper_{k:08d}.pdf", dir_fd=fd)
            os.close(fd)
        return FolderStore.from_url(str(root))

    few, of_few = peak(tree(2).list())
    many, of_many = peak(tree(20).list())
    assert (few, many) == (800, 8000)
    assert of_many < 1.5 * of_few


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_million_keys(listing: tuple[Endless, list[str]]) -> None:
    make, asked = listing
    last = ""
    count = 0
    for info in make(1_000_000).list():
        assert info.key > last
        last = info.key
        count += 1
    assert count == 1_000_000
    assert len(asked) == 1000
