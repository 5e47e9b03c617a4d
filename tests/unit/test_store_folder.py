"""The folder backend: links, odd names, full disks, permissions, file systems that lack something."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores_kit import keys

from tasks.corpus.failures import Category, NotFound, StoreError, UsageError
from tasks.corpus.names import TEMPORARY
from tasks.corpus.store import check_readable, open_store
from tasks.corpus.store_folder import MISSING, FolderStore

AsUser = Callable[[], AbstractContextManager[None]]


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
        with pytest.raises(StoreError, match="a file is in the way") as caught:
            call("x/below", b"")
        assert caught.value.category is Category.BLOCKED
    with pytest.raises(StoreError, match="a folder of this name is in the way") as caught:
        folder.create("d", b"")
    assert caught.value.category is Category.BLOCKED
    assert not caught.value.category.transient
    with pytest.raises(StoreError, match="directory"):
        folder.put("d", b"")


def test_what_is_no_file_is_no_output(folder: FolderStore, tmp_path: Path) -> None:
    folder.put("there", b"")
    root = tmp_path / "root"
    root = root if root.is_dir() else Path(folder.url)
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("there")
    for name, kind in (("dangling", "a link that leads nowhere"), ("fifo", "a special file")):
        with pytest.raises(StoreError, match=f"{kind} of this name is in the way") as caught:
            folder.create(name, b"")
        assert caught.value.category is Category.BLOCKED
    assert not folder.create("link", b"")  # behind it is a file: done


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
