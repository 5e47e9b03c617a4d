"""The S3 backend against a real S3 server: pages, lost answers, outages, refusals."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from conftest import MotoS3
from moto.backends import get_backend
from stores_kit import ODD, keys

from deployments.rehearsal.faulty_s3 import FaultyS3
from tasks.corpus.failures import Category, StoreError, UsageError
from tasks.corpus.store import Store, check_readable, open_store
from tasks.corpus.store_folder import FolderStore
from tasks.corpus.store_s3 import PROBE, S3Store


def test_s3_keys_that_no_folder_can_hold(moto_s3: MotoS3) -> None:
    store = S3Store.from_url(moto_s3.new_bucket())
    odd = [
        "../x.pdf",
        "a/../b.pdf",
        "a//b.pdf",
        "/lead.pdf",
        "./x.pdf",
        "a/./b.pdf",
        "n" * 300,
        "é" * 500,
        "ctl\x01\x7f.pdf",
    ]
    for key in odd:
        assert store.create(key, key.encode())
    assert keys(store) == sorted(odd, key=str.encode)
    for key in odd:
        assert store.read(key) == key.encode()
        store.move(key, f"moved/{key}"[:1000]) if len(key) < 400 else store.delete(key)
    assert keys(store) == sorted((f"moved/{key}" for key in odd if len(key) < 400), key=str.encode)


def test_s3_prefix_is_a_folder(moto_s3: MotoS3) -> None:
    bucket = moto_s3.new_bucket()
    root = S3Store.from_url(bucket)
    for key in ("pdfs/x.pdf", "pdfs2/y.pdf", "pdfs", "pdfs/", "pdfs/sub/", "pdfs/sub/z.pdf"):
        moto_s3.client.put_object(Bucket=bucket[5:], Key=key, Body=b"")
    for url in (f"{bucket}/pdfs", f"{bucket}/pdfs/"):
        store = S3Store.from_url(url)
        assert keys(store) == ["sub/z.pdf", "x.pdf"]
        assert store.display("x.pdf") == "pdfs/x.pdf"
        assert store.url == url
    assert keys(root) == ["pdfs", "pdfs/sub/z.pdf", "pdfs/x.pdf", "pdfs2/y.pdf"]


def test_s3_lists_more_than_one_page(moto_s3: MotoS3) -> None:
    bucket = moto_s3.new_bucket()
    backend = get_backend("s3")["123456789012"]["aws"]
    for i in range(2500):
        backend.put_object(bucket[5:], f"in/{i:05d} +%.pdf", b"")
    assert keys(S3Store.from_url(f"{bucket}/in")) == [f"{i:05d} +%.pdf" for i in range(2500)]


def test_s3_metadata_of_any_characters_comes_back(moto_s3: MotoS3) -> None:
    bucket = moto_s3.new_bucket()
    store = S3Store.from_url(bucket)
    kept = {"sha256": "ab" * 32, "key": "né\n 100% “x”", "engine": "layout 1.2+3; a=b,c"}
    store.create("x.md", b"", kept)
    assert store.metadata("x.md") == kept
    assert moto_s3.client.head_object(Bucket=bucket[5:], Key="x.md")["ContentType"] == "text/markdown; charset=utf-8"


def test_s3_move_cut_short_is_finished(moto_s3: MotoS3) -> None:
    store = S3Store.from_url(moto_s3.new_bucket())
    store.put("x", b"1")
    store.put("y", b"1")
    store.move("x", "y")
    assert keys(store) == ["y"]


@contextmanager
def authenticated(moto_s3: MotoS3) -> Iterator[None]:
    """While it lasts, keys and policies count."""

    def authenticate(after: str) -> None:
        request = urllib.request.Request(
            f"{moto_s3.url}/moto-api/reset-auth",
            data=after.encode(),
            method="POST",
            headers={"Content-Type": "text/plain"},
        )
        with urllib.request.urlopen(request) as answer:
            json.load(answer)

    authenticate("0")
    try:
        yield
    finally:
        authenticate("inf")


@pytest.fixture
def faulty(moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with FaultyS3(moto_s3.url, seed=7) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def faulty_store(moto_s3: MotoS3, faulty: FaultyS3) -> S3Store:
    return S3Store.from_url(f"{moto_s3.new_bucket()}/p")


def test_s3_create_whose_response_was_lost_is_told_by_metadata(faulty_store: S3Store, faulty: FaultyS3) -> None:
    faulty.hit_next("PUT", "lost")
    assert not faulty_store.create("x.md", b"mine", {"attempt": "3", "sha256": "aa"})
    assert faulty.counts["lost"] == 1
    assert faulty_store.metadata("x.md") == {"attempt": "3", "sha256": "aa"}
    assert not faulty_store.create("x.md", b"another's", {"attempt": "4", "sha256": "bb"})
    assert faulty_store.metadata("x.md")["attempt"] == "3"
    faulty.hit_next("PUT", "lost")
    faulty_store.probe()


def test_s3_conflicting_writes_are_tried_again(faulty_store: S3Store, faulty: FaultyS3) -> None:
    faulty.hit_next("PUT", "conflict")
    faulty.hit_next("PUT", "conflict")
    assert faulty_store.create("x.md", b"1")
    faulty.hit_next("PUT", "conflict")
    assert not faulty_store.create("x.md", b"2")
    assert faulty_store.read("x.md") == b"1"


def test_s3_bodies_cut_short_are_fetched_again(faulty_store: S3Store, faulty: FaultyS3, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    faulty_store.put("x.pdf", content)
    for _ in range(2):
        faulty.hit_next("GET", "torn")
    assert faulty_store.fetch("x.pdf", tmp_path / "local").size == len(content)
    assert (tmp_path / "local").read_bytes() == content
    faulty.hit_next("GET", "torn")
    assert faulty_store.read("x.pdf") == content
    assert faulty.counts["torn"] == 3


def test_s3_with_failing_requests_does_everything_once(faulty_store: S3Store, faulty: FaultyS3) -> None:
    faulty.error_rate, faulty.slowdown_rate, faulty.lost_response_rate = 0.1, 0.1, 0.1

    def create(i: int) -> bool:
        name = f"{i % 20}.md"
        return faulty_store.create(name, name.encode(), {"by": str(i)}) or faulty_store.metadata(name)["by"] == str(i)

    with ThreadPoolExecutor(10) as pool:
        won = list(pool.map(create, range(40)))
    assert won.count(True) == 20
    assert [sum(won[i::20]) for i in range(20)] == [1] * 20
    assert len(keys(faulty_store)) == 20
    assert min(faulty.counts[fate] for fate in ("error", "slowdown", "lost")) > 0


def test_s3_outages_are_waited_out(faulty_store: S3Store, faulty: FaultyS3) -> None:
    faulty_store.put("x", b"1")
    with ThreadPoolExecutor(1) as pool:
        with faulty.outage():
            reading = pool.submit(faulty_store.read, "x")
            while not faulty.counts["outage"]:
                time.sleep(0.01)
        assert reading.result() == b"1"


@pytest.mark.parametrize(
    ("status", "code", "message", "category"),
    [
        (403, "AccessDenied", "access denied: s3:PutObject on s3://", Category.FORBIDDEN),
        (400, "ExpiredToken", "have expired: renew them", Category.FORBIDDEN),
        (403, "SignatureDoesNotMatch", "were not accepted", Category.FORBIDDEN),
        (403, "RequestTimeTooSkewed", "clock", Category.FORBIDDEN),
        (400, "AuthorizationHeaderMalformed", "another region", Category.FORBIDDEN),
        (507, "XMinioStorageFull", "no space or quota left", Category.DISK_FULL),
        (418, "Teapot", r"failed on s3://.*: Teapot \(HTTP 418\)", Category.STORE),
    ],
)
def test_s3_refusals_are_told_in_one_line(
    faulty_store: S3Store, faulty: FaultyS3, status: int, code: str, message: str, category: Category
) -> None:
    with faulty.refusing(status, code):
        for call in (faulty_store.create, faulty_store.put):
            with pytest.raises(StoreError, match=message) as caught:
                call("x.md", b"")
            assert caught.value.category is category
        with pytest.raises(UsageError) as refused:
            faulty_store.probe()
        with pytest.raises(UsageError):
            check_readable(faulty_store)
    for text in (str(caught.value), str(refused.value)):
        assert len(text.splitlines()) == 1
        assert "testing" not in text


def test_s3_that_ignores_conditions_is_refused(faulty_store: S3Store, faulty: FaultyS3) -> None:
    with faulty.refusing(501, "NotImplemented"), pytest.raises(UsageError, match="no create-if-absent"):
        faulty_store.probe()


def test_s3_that_overwrites_in_silence_is_refused_whatever_is_there(faulty_store: S3Store, faulty: FaultyS3) -> None:
    faulty.unconditional = True
    for _ in range(2):
        with pytest.raises(UsageError, match="no create-if-absent"):
            faulty_store.probe()
        assert keys(faulty_store) == []
        faulty_store.put(PROBE, b"")


@pytest.mark.soak
def test_of_many_at_the_same_instant_one_creates(moto_s3: MotoS3) -> None:
    """As S3 has it; moto by itself lets two of them through, now and then, and every test of claims would be void."""
    store = S3Store.from_url(f"{moto_s3.new_bucket()}/a")
    gate = threading.Barrier(8)

    def create(number: int) -> list[bool]:
        found = []
        for turn in range(300):
            gate.wait(60)
            found.append(store.create(f"claims/{turn}", b"%d" % number))
        return found

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
    finally:
        sys.setswitchinterval(usual)
    assert [sum(turn) for turn in zip(*won, strict=True)] == [1] * 300


def test_s3_proved_by_many_at_the_same_time(moto_s3: MotoS3) -> None:
    store = S3Store.from_url(moto_s3.new_bucket())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.probe(), range(24)))
    assert keys(store) == []


def test_s3_where_nothing_may_be_deleted_keeps_one_object(moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = moto_s3.new_bucket()
    iam = boto3.session.Session().client("iam", region_name="us-east-1")
    iam.create_user(UserName="worker")
    allow = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket", "s3:PutObject"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.put_user_policy(UserName="worker", PolicyName="write", PolicyDocument=policy)
    known = iam.create_access_key(UserName="worker")["AccessKey"]
    owner = S3Store.from_url(f"{bucket}/out")
    with authenticated(moto_s3):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", known["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", known["SecretAccessKey"])
        worker = S3Store.from_url(f"{bucket}/out")
        for _ in range(3):
            worker.probe()
        with pytest.raises(StoreError, match="access denied: s3:DeleteObject"):
            worker.delete(PROBE)
        assert keys(worker) == [PROBE]
    # Whoever may delete clears up.
    owner.probe()
    assert keys(owner) == []


def test_s3_that_takes_no_object_is_refused_though_one_is_there(faulty_store: S3Store, faulty: FaultyS3) -> None:
    faulty_store.put(PROBE, b"")
    faulty.hit_next("PUT", "passed")  # refused for its name
    for _ in range(2):
        faulty.hit_next("PUT", "error")
    with pytest.raises(UsageError, match="s3:PutObject failed"):
        faulty_store.probe()


def test_s3_without_its_bucket(moto_s3: MotoS3) -> None:
    store = S3Store.from_url("s3://no-such-bucket-anywhere/x")
    for call in (lambda: check_readable(store), store.probe):
        with pytest.raises(
            UsageError, match=r"^no such bucket: s3://no-such-bucket-anywhere: create it, or check the spelling$"
        ):
            call()
    with pytest.raises(StoreError, match="no such bucket"):
        store.create("x", b"")


def test_s3_of_an_account_that_refuses_us(moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = moto_s3.new_bucket()
    iam = boto3.session.Session().client("iam", region_name="us-east-1")
    iam.create_user(UserName="nobody")
    known = iam.create_access_key(UserName="nobody")["AccessKey"]

    with authenticated(moto_s3):
        with pytest.raises(UsageError, match="credentials were not accepted") as caught:
            check_readable(S3Store.from_url(bucket))
        assert "testing" not in str(caught.value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", known["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", known["SecretAccessKey"])
        store = S3Store.from_url(bucket)
        with pytest.raises(UsageError, match="access denied: s3:ListBucket"):
            check_readable(store)
        with pytest.raises(UsageError, match="access denied: s3:PutObject") as caught:
            store.probe()
        assert known["AccessKeyId"] not in str(caught.value)
        with pytest.raises(StoreError) as denied:
            store.head("x")
        assert denied.value.category is Category.FORBIDDEN


def test_s3_without_credentials(moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = moto_s3.new_bucket()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match="no usable AWS credentials"):
        check_readable(open_store(bucket))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    store = open_store(bucket)
    for call in (lambda: check_readable(store), store.probe):
        with pytest.raises(UsageError, match="no usable AWS credentials"):
            call()
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(UsageError, match="the AWS profile does not exist"):
        open_store(bucket)


def test_s3_out_of_reach(moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        port = taken.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:secret@127.0.0.1:{port}")
        with pytest.raises(UsageError, match=f"cannot reach S3 at 127.0.0.1:{port} for s3://bucket") as caught:
            check_readable(open_store("s3://bucket/x"))
        assert "secret" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(UsageError, match="cannot use the AWS configuration"):
        open_store("s3://bucket/x")


def test_folder_and_s3_list_the_same(moto_s3: MotoS3, tmp_path: Path) -> None:
    stores: list[Store] = [S3Store.from_url(moto_s3.new_bucket()), FolderStore.from_url(str(tmp_path), create=True)]
    for store in stores:
        for key in ODD:
            store.put(key, key.encode())
    one, other = ([(info.key, info.size) for info in store.list()] for store in stores)
    assert one == other
