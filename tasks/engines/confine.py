"""Confinement of a sandbox child: what it may still touch once it opens documents.

Everything here is best effort (containers, old kernels and other systems each allow less) and everything is reported, so
that a worker's log says what held. It is applied before a second thread exists: Landlock, namespaces, `no_new_privs` and
capabilities belong to a thread, and threads inherit them.

Sources: prctl(2), capset(2), unshare(2), landlock(7) and linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

NOBODY = 65534
"""User and group that a child of root becomes."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CAP_DAC_READ_SEARCH = 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _TRUNCATE = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 14
_ALL_V1 = (1 << 13) - 1
_ALL_BY_ABI = {1: _ALL_V1, 2: _ALL_V1 | 1 << 13, 3: _ALL_V1 | 3 << 13, 4: _ALL_V1 | 3 << 13}
_ALL_V5 = _ALL_V1 | 7 << 13
_READ = _READ_FILE | _READ_DIR
_SCRATCH = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
"""No links, sockets, devices or programs: the worker publishes what lies there."""
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE

_SYSTEM = (
    "/usr", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/fonts", "/etc/localtime",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version",
    "/sys/devices/system/cpu", "/sys/fs/cgroup", "/dev/urandom", "/dev/zero",
)  # fmt: skip

_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
"""All that a child inherits of the worker's environment: no credentials, tokens or engine settings."""


def environment(scratch: Path, package_root: Path, threads: int) -> dict[str, str]:
    """The whole environment of a child: a short allow-list, and homes that point into its scratch folder."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    pools = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB")
    return (
        kept
        | {f"{pool}_NUM_THREADS": str(threads) for pool in pools}
        | {
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "PYTHONPATH": str(package_root),
            "PYTHONUTF8": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
    )


def shield_parent() -> None:
    """Deny children of the same user our /proc/<pid>/environ and ptrace. Root needs it not: its children become nobody."""
    if sys.platform == "linux" and os.geteuid() != 0:
        _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that spawned us ends. Call again after a change of user, which clears it."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        # It died before the call: no signal will come any more.
        os._exit(1)


def limit_resources(memory_mb: int) -> None:
    """Hard limits: address space (MiB), no core files, files of 1 GiB, 512 open files."""
    for limit, value in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 1 << 30),
        (resource.RLIMIT_NOFILE, 512),
    ):
        _, hard = resource.getrlimit(limit)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(limit, (bound, bound))
        except (ValueError, OSError):
            continue  # macOS knows no RLIMIT_AS; the time limits hold there.


def limit_cpu(seconds: float) -> None:
    """The backstop of the wall clock: `seconds` of CPU from now, then SIGXCPU ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


class Confinement:
    """Confines the process it is made in. `report` says, by subject, what applied."""

    def __init__(self, scratch: Path, package: Path) -> None:
        self.report: dict[str, str] = {}
        self._late = False
        if sys.platform != "linux":
            self.report = dict.fromkeys(("network", "files", "user"), "not confined: not Linux")
            return
        self._libc = _libc()
        readable = [Path(sys.prefix), Path(sys.base_prefix), package]
        self._network_namespace()
        self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        landlock = self._landlock(readable, scratch)
        self._drop_root([*readable, scratch], landlock)

    def finish(self) -> None:
        """After the engine is loaded: what could not be done before because the interpreter would have been out of reach."""
        if self._late:
            self._become_nobody(keep=0)
            self.report["user"] = "nobody (after loading: the interpreter is out of nobody's reach)"

    def _network_namespace(self) -> None:
        # Root goes without a user namespace: an unmapped root could not become nobody any more.
        flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
        if self._libc.unshare(flags) == 0:
            self.report["network"] = "none (own namespace)"
        else:
            self.report["network"] = "not confined"

    def _landlock(self, readable: Iterable[Path], scratch: Path) -> bool:
        abi = self._libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
        if abi < 1:
            self.report["files"] = "not confined: no Landlock in this kernel"
            return False
        handled = _ALL_BY_ABI.get(abi, _ALL_V5)
        # handled_access_fs, handled_access_net (ABI 4: bind and connect TCP), scoped (ABI 6: abstract sockets, signals).
        words = [handled, *([3] if abi >= 4 else []), *([3] if abi >= 6 else [])]
        attributes = struct.pack(f"={len(words)}Q", *words)
        ruleset = self._libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
        if ruleset < 0:
            self.report["files"] = f"not confined: {os.strerror(ctypes.get_errno())}"
            return False
        for path in [*map(Path, _SYSTEM), *readable]:
            self._allow(ruleset, path, _READ & handled)
        self._allow(ruleset, Path("/dev/null"), (_READ_FILE | _WRITE_FILE) & handled)
        self._allow(ruleset, scratch, _SCRATCH & handled)
        failed = self._libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0))
        error = ctypes.get_errno()
        os.close(ruleset)
        if failed:
            self.report["files"] = f"not confined: {os.strerror(error)}"
            return False
        self.report["files"] = f"Landlock ABI {abi}: reads libraries, writes its scratch, runs no program"
        if abi >= 4 and self.report["network"] == "not confined":
            self.report["network"] = "no TCP (Landlock)"
        return True

    def _allow(self, ruleset: int, path: Path, access: int) -> None:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return  # Not on this system.
        try:
            rights = access if path.is_dir() else access & _FILE_RIGHTS
            rule = struct.pack("=Qi", rights, handle)
            self._libc.syscall(_LANDLOCK_ADD, ruleset, ctypes.c_int(_LANDLOCK_PATH_BENEATH), rule, ctypes.c_uint32(0))
        finally:
            os.close(handle)

    def _drop_root(self, needed: Iterable[Path], landlock: bool) -> None:
        if os.geteuid() != 0:
            self.report["user"] = "the worker's own"
            self._capabilities(0)
            return
        out_of_reach = not all(reachable(path) for path in needed)
        if out_of_reach and not landlock:
            self._late = True
            self.report["user"] = "root"
            return
        # Landlock already bounds what can be read; the one capability only lets nobody pass folders such as /root.
        keep = _CAP_DAC_READ_SEARCH if out_of_reach else 0
        try:
            self._become_nobody(keep)
        except PermissionError:
            self.report["user"] = "root: this container may not change its user"
        else:
            self.report["user"] = "nobody" + (" with CAP_DAC_READ_SEARCH, bounded by Landlock" if keep else "")

    def _become_nobody(self, keep: int) -> None:
        self._libc.prctl(_PR_SET_KEEPCAPS, 1 if keep else 0, 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        self._capabilities(keep)

    def _capabilities(self, keep: int) -> None:
        header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
        self._libc.capset(header, struct.pack("=6I", keep, keep, 0, 0, 0, 0))


def reachable(path: Path) -> bool:
    """Whether everybody may enter and read a folder, as far as the permission bits tell."""
    resolved = path.resolve()
    return bool(resolved.stat().st_mode & 0o004) and all(
        parent.stat().st_mode & 0o001 for parent in (resolved, *resolved.parents)
    )


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
