"""One suite for both backends of the storage protocol, then what only one of them can meet."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import boto3
import pytest
from conftest import MotoS3
from faults import FaultyS3
from hypothesis import given
from hypothesis import strategies as st
from moto.backends import get_backend

from tasks.corpus.failures import Category, NotFound, StoreError, UsageError
from tasks.corpus.names import TEMPORARY
from tasks.corpus.store import Store, check_readable, open_store
from tasks.corpus.store_folder import MISSING, FolderStore
from tasks.corpus.store_s3 import S3Store

AsUser = Callable[[], AbstractContextManager[None]]

ODD = [
    "caf\u00e9.pdf",
    "cafe\u0301.pdf",
    "with space.pdf",
    "  both ends  .pdf",
    "hash#fragment.pdf",
    "percent%20encoded.pdf",
    "100%.pdf",
    "plus+and=equals.pdf",
    "-leading-dash.pdf",
    'it\'s "quoted".pdf',
    "new\nline.pdf",
    "tab\there.pdf",
    "back\\slash.pdf",
    "question?query=1&b=2.pdf",
    "a.pdf",
    "a.PDF",
    "a/b.pdf",
    "a-b.pdf",
    "a0.pdf",
    "folder.pdf/inside.pdf",
    "\u4e2d\u6587.pdf",
    "\U0001f4c4 \uffee.pdf",
    "zero\u200bwidth.pdf",
    ".hidden.pdf",
    ".pdf",
    "/".join(["d" * 199] * 4) + "/" + "x" * 196 + ".pdf",
]


def keys(store: Store, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


# Both backends


def test_objects_come_back_as_they_were_put(store: Store, tmp_path: Path) -> None:
    assert keys(store) == []
    assert store.create("a/b.md", b"first", {"sha256": "x"})
    assert not store.create("a/b.md", b"second", {"sha256": "y"})
    assert store.read("a/b.md") == b"first"
    store.put("a/c.json", b"1")
    store.put("a/c.json", b"22")
    (b, c) = store.list("a/")
    assert (b.key, b.size, c.key, c.size) == ("a/b.md", 5, "a/c.json", 2)
    assert store.head("a/c.json") == c
    local = tmp_path / "local"
    assert store.fetch("a/b.md", local) == b
    assert local.read_bytes() == b"first"
    store.delete("a/c.json")
    store.delete("a/c.json")
    assert keys(store) == ["a/b.md"]


def test_a_new_version_has_a_new_etag(store: Store) -> None:
    store.put("x", b"1")
    before = store.head("x")
    store.put("x", b"2")
    assert before is not None
    assert store.head("x") != before


def test_what_is_absent(store: Store, tmp_path: Path) -> None:
    store.put("folder/x", b"")
    for key in ("gone", "folder", "folder/x/below", "k" * 300, "a/../folder/x", "", "nul\0"):
        assert store.head(key) is None
        for call in (store.read, store.metadata):
            with pytest.raises(NotFound) as caught:
                call(key)
            assert caught.value.category is Category.MISSING
        with pytest.raises(NotFound):
            store.fetch(key, tmp_path / "local")
        store.delete(key)
    with pytest.raises(NotFound):
        store.move("gone", "there")
    assert keys(store) == ["folder/x"]


def test_of_sixteen_creators_one_wins(store: Store) -> None:
    for race in range(5):
        gate = threading.Barrier(16)

        def create(i: int, race: int = race, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return store.create(f"new/{race}/claim", str(i).encode() * 1000)

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(create, range(16)))
        assert won.count(True) == 1
        assert store.read(f"new/{race}/claim") == str(won.index(True)).encode() * 1000


def test_readers_of_a_replaced_object_see_all_or_nothing(store: Store) -> None:
    contents = [bytes([i]) * 20_000 for i in range(4)]
    store.put("beat", contents[0])
    done = threading.Event()

    def write() -> None:
        for i in range(60):
            store.put("beat", contents[i % 4])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        reads = 0
        while not done.is_set() or reads < 10:
            assert store.read("beat") in contents
            reads += 1
        writing.result()
    assert keys(store) == ["beat"]


def test_odd_keys_are_listed_in_order_of_their_bytes_and_read(store: Store, tmp_path: Path) -> None:
    for i, key in enumerate(ODD):
        assert store.create(key, str(i).encode())
    assert keys(store) == sorted(ODD, key=str.encode)
    for i, key in enumerate(ODD):
        assert store.read(key) == str(i).encode()
        assert store.head(key) == store.fetch(key, tmp_path / "local")
        assert not store.create(key, b"again")
        assert len(store.display(key).splitlines()) == 1
    for key in ODD:
        assert key in keys(store, key)
        store.delete(key)
    assert keys(store) == []


@pytest.mark.parametrize(
    "prefix", ["", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c.pdf", "z", "a//", "/", "../", "./a", "é", "a/b/c.pdf/"]
)
def test_a_prefix_selects_by_its_characters(store: Store, prefix: str) -> None:
    there = ["a/b/c.pdf", "a/b/d.pdf", "a/b.pdf", "a.pdf", "ab/c.pdf", "é/x.pdf"]
    for key in there:
        store.put(key, b"")
    assert keys(store, prefix) == sorted((key for key in there if key.startswith(prefix)), key=str.encode)


@pytest.mark.parametrize("skip", ["_runs/", "a/b/", "zz/", "a b/"])
def test_what_is_skipped_is_left_out(store: Store, skip: str) -> None:
    there = [
        "Z.md",
        "_runs.md",
        "_runs/r/1",
        "_runs/r/2",
        "_runs/\U0010ffff\U0010ffff",
        "_runs0.md",
        "_runsx/1",
        "a/b/c",
        "a/d",
        "x",
    ]
    for key in there:
        store.put(key, b"")
    expected = sorted((key for key in there if not key.startswith(skip)), key=str.encode)
    assert [info.key for info in store.list(skip=skip)] == expected


def test_move_replaces_nothing(store: Store) -> None:
    store.put("out/x.md", b"old")
    store.move("out/x.md", "_runs/r/replaced/out/x.md")
    assert keys(store) == ["_runs/r/replaced/out/x.md"]
    store.put("out/x.md", b"new")
    with pytest.raises(StoreError, match="exists already"):
        store.move("out/x.md", "_runs/r/replaced/out/x.md")
    with pytest.raises(StoreError, match="to itself"):
        store.move("out/x.md", "out/x.md")
    assert store.read("out/x.md") == b"new"
    assert store.read("_runs/r/replaced/out/x.md") == b"old"


def test_probe_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    store.probe()
    store.probe()
    assert keys(store) == []
    if isinstance(store, FolderStore):
        assert list((tmp_path / "store").iterdir()) == []
    check_readable(store)


def test_names_a_backend_cannot_hold_are_refused_by_name(store: Store) -> None:
    for key in ("", "a\udce9\ud800.pdf", "long/" * 400):
        with pytest.raises(StoreError, match="cannot hold"):
            store.create(key, b"")
        with pytest.raises(StoreError, match="cannot hold"):
            store.put(key, b"")
    assert keys(store) == []


def test_a_local_copy_that_cannot_be_written_is_not_a_missing_object(store: Store, tmp_path: Path) -> None:
    store.put("x.pdf", b"1")
    with pytest.raises(StoreError, match="local copy") as caught:
        store.fetch("x.pdf", tmp_path / "no such folder" / "x.pdf")
    assert not isinstance(caught.value, NotFound)


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    root = tmp_path / "root"
    root.mkdir()
    return FolderStore.from_url(str(root))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB below a folder of this test."""
    at = tmp_path / "root" / "small"
    at.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "tmpfs", str(at)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    yield at
    subprocess.run(["umount", "-l", str(at)], check=True)


def test_links_are_followed_unless_they_lead_back(folder: FolderStore, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir()
    (root / "sub" / "x.pdf").write_bytes(b"1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.pdf").write_bytes(b"22")
    for link, target in [
        ("link.pdf", "sub/x.pdf"),
        ("itself.pdf", "itself.pdf"),
        ("nothing.pdf", "gone.pdf"),
        ("through-a-file.pdf", "sub/x.pdf/y"),
        ("sub/up", ".."),
        ("sub/here", "."),
        ("sub/above-the-root", "../.."),
        ("other", "../outside"),
        ("folder.pdf", "../outside"),
    ]:
        (root / link).symlink_to(target)
    listed = {info.key: (info.size, info.etag == MISSING) for info in folder.list()}
    assert listed == {
        "folder.pdf/far.pdf": (2, False),
        "itself.pdf": (0, True),
        "link.pdf": (1, False),
        "nothing.pdf": (0, True),
        "other/far.pdf": (2, False),
        "sub/x.pdf": (1, False),
        "through-a-file.pdf": (0, True),
    }
    assert keys(folder, "sub/up/") == []
    for key in ("itself.pdf", "nothing.pdf"):
        assert folder.head(key) is None
        with pytest.raises(NotFound):
            folder.read(key)


def test_names_that_are_not_utf8_are_listed_in_byte_order_and_read(folder: FolderStore, tmp_path: Path) -> None:
    names = [
        b"latin1-\xe9.pdf",
        b"latin1-\xc3\xa9.pdf",
        b"\xff.pdf",
        "\uffee.pdf".encode(),
        b"dir-\xe9/x.pdf",
        b"dir-\xe9.pdf",
    ]
    for name in names:
        path = tmp_path / "root" / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    found = keys(folder)
    assert [key.encode("utf-8", "surrogateescape") for key in found] == sorted(names)
    for key in found:
        assert folder.read(key) == key.encode("utf-8", "surrogateescape")
        folder.display(key).encode()
    # Surrogates that spell a valid name would be a second key of the same file.
    assert folder.head("latin1-\udcc3\udca9.pdf") is None


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "a.", "a-", "a0", "é", "\udce9", "A"]), min_size=1, max_size=4), max_size=12
    )
)
def test_the_order_is_that_of_the_whole_keys_bytes(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("order")
    made = set()
    for path in paths:
        target = root.joinpath(*path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(exist_ok=False)
        except OSError:
            continue  # a file stands where a folder is wanted, or the other way round
        made.add("/".join(path))
    assert keys(FolderStore.from_url(str(root))) == sorted(made, key=lambda key: key.encode("utf-8", "surrogateescape"))
    shutil.rmtree(root)


def test_only_files_are_listed_and_read(folder: FolderStore, tmp_path: Path) -> None:
    root = tmp_path / "root"
    os.mkfifo(root / "fifo.pdf")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(root)  # a socket's path is short
        try:
            listening.bind("socket.pdf")
        finally:
            os.chdir(here)
        (root / "device.pdf").symlink_to("/dev/zero")
        (root / "x.pdf").touch()
        assert keys(folder) == ["x.pdf"]
        for key in ("fifo.pdf", "device.pdf"):
            assert folder.head(key) is None
            with pytest.raises(NotFound):
                folder.read(key)


def test_a_tree_deeper_than_any_path_may_be(folder: FolderStore, tmp_path: Path) -> None:
    depth = 3000
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("dd", dir_fd=fd)
            deeper = os.open("dd", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(os.open("x.pdf", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        (tmp_path / "root" / "z.pdf").touch()
        key = "dd/" * depth + "x.pdf"
        assert keys(folder) == [key, "z.pdf"]
        assert keys(folder, "dd/dd/") == [key]
        assert folder.read(key) == b""
        assert folder.head(key) is not None
        with pytest.raises(StoreError, match="cannot write") as caught:
            folder.create(key + ".md", b"")
        assert len(str(caught.value)) < 500
    finally:
        os.close(fd)
        subprocess.run(["rm", "-rf", str(tmp_path / "root")], check=True)


def test_a_folder_that_cannot_be_read_is_named(folder: FolderStore, tmp_path: Path, as_user: AsUser) -> None:
    locked = tmp_path / "root" / "sub" / "locked"
    locked.mkdir(parents=True)
    (tmp_path / "root" / "a.pdf").touch()
    locked.chmod(0)
    with as_user(), pytest.raises(StoreError, match="sub/locked: Permission denied") as caught:
        list(folder.list())
    locked.chmod(0o700)
    assert caught.value.category is Category.FORBIDDEN
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_cannot_be_read_is_listed_and_forbidden(
    folder: FolderStore, tmp_path: Path, as_user: AsUser
) -> None:
    (tmp_path / "root" / "x.pdf").touch(mode=0)
    with as_user():
        assert keys(folder) == ["x.pdf"]
        with pytest.raises(StoreError) as caught:
            folder.fetch("x.pdf", tmp_path / "local")
    assert caught.value.category is Category.FORBIDDEN


def test_an_output_that_cannot_be_written(folder: FolderStore, tmp_path: Path, as_user: AsUser) -> None:
    (tmp_path / "root").chmod(0o500)
    with as_user():
        with pytest.raises(UsageError, match=r"cannot write to the output folder .*: Permission denied"):
            folder.probe()
        with pytest.raises(StoreError) as caught:
            folder.create("x.md", b"")
    assert caught.value.category is Category.FORBIDDEN
    assert keys(folder) == []


def test_a_full_disk(small_disk: Path) -> None:
    store = FolderStore.from_url(str(small_disk), create=True)
    assert store.create("fits.md", b"x" * 1000)
    for call in (store.create, store.put):
        with pytest.raises(StoreError) as caught:
            call("a/big.md", b"x" * 2_000_000)
        assert caught.value.category is Category.DISK_FULL
    assert keys(store) == ["fits.md"]
    assert list((small_disk / TEMPORARY).iterdir()) == []
    (small_disk / "filler").write_bytes(b"x" * 900_000)
    with pytest.raises(StoreError) as caught:
        store.fetch("filler", small_disk / "local")
    assert caught.value.category is Category.DISK_FULL
    with pytest.raises(OSError, match="No space"):  # noqa: SIM117
        with (small_disk / "filler").open("ab") as filler:
            while True:
                filler.write(b"x" * 4096)
                filler.flush()
    with pytest.raises(OSError, match="No space"):
        for i in range(64):  # names are free on tmpfs, up to the number of files it was mounted with
            (small_disk / f"{i}").touch()
    with pytest.raises(UsageError, match="no space left"):
        store.probe()


def test_a_folder_on_another_file_system_below_the_root(small_disk: Path) -> None:
    store = FolderStore.from_url(str(small_disk.parent))
    assert store.create("small/x.md", b"1")
    assert not store.create("small/x.md", b"2")
    store.put("small/y.md", b"3")
    store.put("small/y.md", b"4")
    store.move("small/x.md", "large.md")
    assert [store.read(key) for key in keys(store)] == [b"1", b"4"]
    assert sorted(p.name for p in small_disk.iterdir()) == ["y.md"]


def test_a_file_system_without_hard_links_is_refused(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # No such file system can be mounted on every machine: link(2) answers here as it does on FAT and some network shares.
    def refuse(source: bytes, target: bytes, **_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(
        UsageError, match=r"^file system without hard links: .*: choose another output folder or s3://$"
    ):
        folder.probe()
    assert keys(folder) == []


def test_a_link_whose_answer_was_lost_has_been_made(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.link, []

    def lose(source: bytes, target: bytes, **options: object) -> None:
        calls.append(target)
        real(source, target, **options)  # type: ignore[arg-type]
        if len(calls) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "link", lose)
    assert folder.create("x.md", b"1")
    assert len(calls) == 2
    assert not folder.create("x.md", b"2")
    assert folder.read("x.md") == b"1"


def test_errors_that_pass_are_retried_and_others_are_not(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = os.fsync, [errno.EIO, errno.EIO]

    def flaky(fd: int) -> None:
        if failures:
            raise OSError(failures.pop(), "on purpose")
        real(fd)

    monkeypatch.setattr(os, "fsync", flaky)
    assert folder.create("x.md", b"1")
    failures.extend([errno.EDQUOT])
    with pytest.raises(StoreError) as caught:
        folder.create("y.md", b"1")
    assert caught.value.category is Category.DISK_FULL
    failures.extend([errno.EIO] * 9)
    with pytest.raises(StoreError) as caught:
        folder.create("y.md", b"1")
    assert caught.value.category is Category.STORE
    failures.clear()
    assert keys(folder) == ["x.md"]
    assert list((Path(folder.url) / TEMPORARY).iterdir()) == []


def test_orphans_are_hidden_and_swept_after_a_day(folder: FolderStore, tmp_path: Path) -> None:
    hidden = tmp_path / "root" / TEMPORARY
    hidden.mkdir()
    (hidden / "old").touch()
    (hidden / "new").touch()
    yesterday = time.time() - 90_000
    os.utime(hidden / "old", (yesterday, yesterday))
    assert keys(folder) == []
    assert keys(folder, f"{TEMPORARY}/") == []
    folder.probe()
    assert [p.name for p in hidden.iterdir()] == ["new"]
    os.utime(hidden / "new", (yesterday, yesterday))
    folder.probe()
    assert not hidden.exists()


@pytest.mark.parametrize(
    "key",
    ["../x", "a/../../x", "./x", "a//b", "/x", "x/", "..", "y" * 256, "a\0b", f"{TEMPORARY}/x", f"a/{TEMPORARY}-1"],
)
def test_a_key_never_leads_out_of_the_folder(folder: FolderStore, tmp_path: Path, key: str) -> None:
    folder.put("fine", b"")
    (tmp_path / "x").write_bytes(b"outside")
    for call in (folder.create, folder.put):
        with pytest.raises(StoreError, match="cannot hold a file of this name"):
            call(key, b"")
    with pytest.raises(StoreError, match="cannot hold a file of this name"):
        folder.move("fine", key)
    assert folder.head(key) is None
    folder.delete(key)
    assert (tmp_path / "x").read_bytes() == b"outside"
    assert keys(folder) == ["fine"]


def test_files_and_folders_in_each_others_way(folder: FolderStore) -> None:
    folder.put("x", b"")
    folder.put("d/y", b"")
    for call in (folder.create, folder.put):
        with pytest.raises(StoreError, match="a file is in the way"):
            call("x/below", b"")
    with pytest.raises(StoreError, match="a folder of this name is in the way"):
        folder.create("d", b"")
    with pytest.raises(StoreError, match="directory"):
        folder.put("d", b"")


def test_a_move_cut_short_is_finished(folder: FolderStore, tmp_path: Path) -> None:
    folder.put("x", b"1")
    os.link(tmp_path / "root" / "x", tmp_path / "root" / "y")
    folder.move("x", "y")
    assert keys(folder) == ["y"]


def test_folder_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in put").mkdir()
    (tmp_path / "in put" / "x.pdf").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in ("in put", "./in put/", "~/in put", str(tmp_path / "in put"), f"file://{tmp_path}/in%20put"):
        store = open_store(url)
        assert keys(store) == ["x.pdf"]
        assert store.url == url
    relative = open_store("in put")
    assert relative.display("x.pdf") == "in put/x.pdf"
    monkeypatch.chdir("/")
    assert keys(relative) == ["x.pdf"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gone", "^no such folder: gone$"),
        ("file/below", "cannot open the folder file/below: Not a directory"),
        ("file", "^not a folder: file: "),
        ("", "no folder given"),
        ("gs://bucket/x", "unknown kind of address: gs://bucket/x"),
        ("file://host/x", "not an address of a local folder"),
        ("file:x", "not an address of a local folder"),
        ("~nobody-of-this-name/x", "no such user's folder"),
        ("n" * 300, "File name too long"),
        ("s3://", "not an S3 address"),
        ("s3://Upper_Case/x", "not an S3 address"),
        ("s3:///x", "not an S3 address"),
        ("s3://127.0.0.1/x", "not an S3 address"),
    ],
)
def test_bad_addresses_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UsageError, match=message) as caught:
        open_store(url)
    assert len(str(caught.value).splitlines()) == 1


def test_an_output_folder_is_made_by_probe_with_its_parents(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a" / "b"), writable=True)
    assert not (tmp_path / "a").exists()
    assert keys(store) == []
    store.probe()
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        open_store(str(tmp_path / "file" / "b"), writable=True).probe()


def test_an_input_that_goes_away_is_no_empty_input(folder: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "root").rmdir()
    with pytest.raises(StoreError, match="cannot list the folder"):
        list(folder.list())
    with pytest.raises(UsageError, match="cannot list the folder"):
        check_readable(folder)
    with pytest.raises(StoreError, match="the folder has gone"):
        folder.create("x", b"")


# S3


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
    finally:
        authenticate("inf")


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
