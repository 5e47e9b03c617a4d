"""The build: requirement lists, the Makefile's way with arguments, and what the installer says when it cannot install."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LISTS = ROOT / "requirements"
NAMES = sorted(path.stem for path in LISTS.glob("*.in"))
TORCH = ("torch", "torch-cpu")
"""Lists that `make lock` cuts from dolphin's."""
TOOLS = ("uv", "checkov")
"""Lists that go into environments of their own."""
AWKWARD = 'a b/it\'s "$HOME" $(shell touch made) `touch made` #%+;&\\ é'


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(name: str) -> dict[str, str]:
    """What a list's .in asks for: canonical package name to the whole line."""
    lines = (LISTS / f"{name}.in").read_text().splitlines()
    wanted = [line for line in lines if line.strip() and not line.startswith(("#", "-"))]
    return {canonical(re.split(r"[\[<>=~! ;]", line, maxsplit=1)[0]): line for line in wanted}


def locked(name: str) -> list[str]:
    """A list's requirements, each with its continuation lines joined, comments dropped."""
    text = re.sub(r"^\s*#.*\n", "", (LISTS / f"{name}.txt").read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def locked_versions(name: str) -> set[tuple[str, str]]:
    pairs = (re.split(r"[= ]+", line, maxsplit=2)[:2] for line in locked(name))
    return {(package, version) for package, version in pairs}


@pytest.mark.parametrize("name", NAMES)
class TestLists:
    def test_every_line_gives_its_reason(self, name: str) -> None:
        assert [line for line in required(name).values() if not re.search(r"\s#\s\S", line)] == []

    def test_every_requirement_is_locked(self, name: str) -> None:
        # torch has lists of its own: with CUDA, and without.
        versions = locked_versions(name) | (locked_versions("torch") if name == "dolphin" else set())
        assert required(name).keys() <= {canonical(package) for package, _ in versions}

    def test_everything_locked_is_pinned_and_hashed(self, name: str) -> None:
        names = (name, *TORCH) if name == "dolphin" else (name,)
        pinned = re.compile(r"[a-z0-9][a-z0-9.-]*==\S+( ;.*?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
        assert [line for name in names for line in locked(name) if not pinned.fullmatch(line)] == []

    def test_no_address_is_written(self, name: str) -> None:
        for suffix in (".in", ".txt"):
            assert not re.search(
                r"://|^\s*(-i|-f|--(extra-)?index-url|--find-links)\b", (LISTS / f"{name}{suffix}").read_text(), re.M
            )


def test_the_base_has_no_torch() -> None:
    heavy = re.compile(r"torch.*|transformers|nvidia-.*|triton|vllm")
    assert [package for package, _ in locked_versions("base") if heavy.fullmatch(package)] == []


def test_the_other_lists_hold_the_versions_of_the_base() -> None:
    base = {package for package, _ in locked_versions("base")}
    for name in set(NAMES) - {"base", *TOOLS}:
        shared = {(package, version) for package, version in locked_versions(name) if package in base}
        assert shared <= locked_versions("base"), name


def test_torch_comes_once_from_either_of_its_lists() -> None:
    with_cuda, without = (dict(locked_versions(name)) for name in TORCH)
    assert without == {"torch": f"{with_cuda['torch']}+cpu"}
    assert "torch" not in dict(locked_versions("dolphin"))


def test_what_checkov_found_was_found_by_the_version_that_is_pinned() -> None:
    """Another version may know other checks: deployments/aws/checkov.yaml has to be read again then."""
    held = yaml.safe_load((ROOT / "deployments/aws/checkov.yaml").read_text())
    assert dict(locked_versions("checkov"))["checkov"] == held["checked_with"]


def test_the_build_backend_is_in_the_base() -> None:
    """The editable install is made without build isolation, so the hashed list has to bring what builds it."""
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert requires == [required("base")["setuptools"].split("#")[0].strip()]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the build files in a folder with an awkward name."""
    folder = tmp_path / "a b's c"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(LISTS, folder / "requirements")
    return folder


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run with a clean environment: a make above this test must not reach the one below it."""
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LC_ALL": "C.UTF-8"} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def recording(checkout: Path) -> Path:
    """The checkout with a `pdf-flows` that prints its arguments and what the Makefile left in its environment, then exits 1."""
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    program = (
        "import json, os, sys; "
        "print(json.dumps([sys.argv[1:], [name for name in os.environ if name.startswith('MAKE_')]])); "
        "sys.exit(1)"
    )
    # Not Python itself as the interpreter: its path may hold blanks.
    executable(checkout / ".venv/bin/pdf-flows", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{program}" "$@"\n')
    return checkout


class TestConvert:
    """`make convert` with the installing left out (`install=true`), since only the passing on of arguments is looked at."""

    def arguments(self, folder: Path, *variables: str, **environment: str) -> list[str]:
        result = run(["make", "convert", "install=true", *variables], folder, **environment)
        assert result.returncode == 2, result.stderr
        # No command is echoed, and of the exit status only make's own word is heard.
        assert re.fullmatch(r"make: \*\*\* \[Makefile:\d+: convert\] Error 1\n", result.stderr)
        arguments, environment_left = json.loads(result.stdout)
        assert environment_left == []
        assert not (folder / "made").exists()
        return arguments

    def test_defaults(self, recording: Path) -> None:
        assert self.arguments(recording) == ["convert", "samples", "markdown"]

    def test_names_arrive_as_typed(self, recording: Path) -> None:
        arguments = self.arguments(recording, f"INPUT={AWKWARD}", f"OUTPUT=s3://bucket/{AWKWARD}")
        assert arguments == ["convert", AWKWARD, f"s3://bucket/{AWKWARD}"]

    def test_names_from_the_environment_arrive_as_typed(self, recording: Path) -> None:
        assert self.arguments(recording, INPUT=AWKWARD, OUTPUT="out") == ["convert", AWKWARD, "out"]

    def test_args_are_split_like_a_shell_but_not_evaluated(self, recording: Path) -> None:
        arguments = self.arguments(recording, "ARGS=--limit 3 --run-id 'a b' $(touch made) *")
        assert arguments == [
            "convert",
            "samples",
            "markdown",
            "--limit",
            "3",
            "--run-id",
            "a b",
            "$(touch",
            "made)",
            "*",
        ]

    def test_args_that_cannot_be_split_are_one_clear_line(self, recording: Path) -> None:
        result = run(["make", "convert", "install=true", "ARGS=--run-id 'a"], recording)
        assert result.returncode == 2
        assert result.stderr.splitlines()[0] == "pdf-flows: ARGS: No closing quotation"


def test_the_help_names_every_target(checkout: Path) -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    result = run(["make"], checkout)
    assert result.returncode == 0
    assert set(re.findall(r"^make ([a-z-]+)", result.stdout, re.MULTILINE)) == set(phony.split()) - {"help"}


def path_without_python(folder: Path) -> str:
    """A PATH with the tools that any system has, and neither Python nor uv."""
    tools = folder / "tools"
    tools.mkdir()
    for tool in ("sh", "cat", "cksum", "dirname", "grep", "ls", "mkdir", "mv", "rm", "sed", "sort", "tr"):
        found = shutil.which(tool)
        assert found
        (tools / tool).symlink_to(found)
    return str(tools)


class TestInstaller:
    def fails(self, folder: Path, *arguments: str, **environment: str) -> str:
        """The one line that the installer fails with (exit status 2)."""
        result = run(["/bin/sh", "requirements/install.sh", *arguments], folder, **environment)
        assert result.returncode == 2, result.stderr
        (line,) = [line for line in result.stderr.splitlines() if not line.endswith(" ...")]
        return line

    def test_no_such_extra(self, checkout: Path) -> None:
        (checkout / "requirements/other.txt").write_text("")
        existing = sorted({path.stem for path in LISTS.glob("*.txt")} - {"base", "dev", *TOOLS, *TORCH} | {"other"})
        for extra in ("nonesuch", "dev", "../base", "*"):
            assert (
                self.fails(checkout, EXTRAS=extra)
                == f"pdf-flows: no such extra: {extra} (there is: {' '.join(existing)})"
            )
        assert not (checkout / ".venv").exists()

    def test_no_extra_at_all(self, checkout: Path) -> None:
        for name in set(NAMES) - {"base", "dev", *TOOLS}:
            (checkout / f"requirements/{name}.txt").unlink()
        assert self.fails(checkout, EXTRAS="other") == "pdf-flows: no such extra: other (there is: none yet)"

    def test_no_such_extra_through_make(self, checkout: Path) -> None:
        result = run(["make", "setup", "EXTRAS=nonesuch"], checkout)
        assert result.returncode == 2
        assert result.stderr.startswith("pdf-flows: no such extra: nonesuch (there is: ")

    def test_no_such_tool(self, checkout: Path) -> None:
        result = run(["/bin/sh", "requirements/install.sh", "--tool", "nonesuch"], checkout)
        assert (result.returncode, result.stderr) == (
            2,
            "pdf-flows: no such tool: nonesuch (there is no requirements/nonesuch.txt)\n",
        )

    def test_no_python(self, checkout: Path, tmp_path: Path) -> None:
        line = self.fails(checkout, PATH=path_without_python(tmp_path))
        assert line.startswith("pdf-flows: Python 3.11 or newer is needed and not found; install it")

    def test_the_named_python_does_not_fit(self, checkout: Path, tmp_path: Path) -> None:
        tools = path_without_python(tmp_path)
        old = executable(tmp_path / "bin/python3.10", "#!/bin/sh\nexit 1\n")
        line = self.fails(checkout, PATH=tools, PYTHON=str(old))
        assert line == f"pdf-flows: PYTHON={old} is not a Python 3.11 or newer; name one that is"

    def test_a_python_without_ensurepip_as_debian_has_it(self, checkout: Path, tmp_path: Path) -> None:
        tools = Path(path_without_python(tmp_path))
        # Debian's python3 without python3-venv: everything works but finding ensurepip.
        text = f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\nexec {shlex.quote(sys.executable)} "$@"\n'
        executable(tools / "python3", text)
        assert "apt-get install python3-venv" in self.fails(checkout, PATH=str(tools))


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestInstalling:
    """Installs for real, from the package index."""

    def setup(self, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(
            ["make", "setup", *arguments],
            cwd=folder,
            env=inherited | environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    @pytest.fixture
    def small(self, checkout: Path) -> Path:
        """The checkout with only the packages that the project's own editable install takes, and its real packages."""
        keep = [line for line in locked("base") if line.startswith(("setuptools==", "tenacity=="))]
        (checkout / "requirements/base.txt").write_text("\n".join(keep) + "\n")
        extra = [line for line in locked("base") if line.startswith("toml==")]
        (checkout / "requirements/extra.txt").write_text("\n".join(extra) + "\n")
        for package in ("flows", "tasks", "deployments"):
            shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
        return checkout

    def packages(self, folder: Path) -> set[str]:
        found = (folder / ".venv").glob("lib/python3*/site-packages/*.dist-info")
        return {canonical(path.name.split("-")[0]) for path in found}

    def test_life_of_an_environment(self, small: Path, tmp_path: Path) -> None:
        hindering = {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "elsewhere"), "PIP_REQUIRE_VIRTUALENV": "1"}
        hindering |= {
            "PIP_NO_BINARY": ":all:",
            "UV_REQUIRE_HASHES": "1",
            "UV_SYSTEM_PYTHON": "1",
            "PYTHONPATH": str(tmp_path),
        }
        first = self.setup(small, **hindering)
        assert first.returncode == 0, first.stderr
        assert first.stdout == ""
        assert self.packages(small) == {"pdf-flows", "setuptools", "tenacity"}
        where = [".venv/bin/python", "-c", "import flows, tasks; print(flows.__file__)"]
        assert run(where, small).stdout == f"{small}/flows/__init__.py\n"

        again = self.setup(small)
        assert (again.returncode, again.stderr) == (0, "")

        extra = self.setup(small, "EXTRAS=extra")
        assert extra.returncode == 0, extra.stderr
        assert self.packages(small) == {"pdf-flows", "setuptools", "tenacity", "toml"}
        assert self.setup(small).stderr == "", "what an earlier call asked for stays"

        # A tool has an environment of its own, and is brought once.
        (small / "requirements/tool.txt").write_text((small / "requirements/extra.txt").read_text())
        bring = ["/bin/sh", "requirements/install.sh", "--tool", "tool"]
        for said in ("Installing tool into .tools/tool ...\n", ""):
            done = subprocess.run(bring, cwd=small, capture_output=True, text=True, timeout=500, check=False)
            assert (done.returncode, done.stderr) == (0, said)
        assert run([".tools/tool/bin/python", "-c", "import toml"], small).returncode == 0
        assert self.setup(small).stderr == "", "a tool is nothing that .venv holds"

        # Killed in the middle: a package is half there, and the mark of an install under way was left.
        (small / ".venv/.installing").touch()
        shutil.rmtree(next((small / ".venv").glob("lib/python3*/site-packages/tenacity")))
        assert self.setup(small).returncode == 0
        assert run([".venv/bin/python", "-c", "import tenacity"], small).returncode == 0

        # Moved with its folder: entry points and the editable install name the old one.
        moved = small.rename(small.with_name("moved here"))
        assert self.setup(moved).returncode == 0
        assert run(where, moved).stdout == f"{moved}/flows/__init__.py\n"

        # A list that changed.
        (moved / "requirements/base.txt").write_text(
            "\n".join(line for line in locked("base") if line.startswith("setuptools==")) + "\n"
        )
        assert self.setup(moved).returncode == 0
        assert "tenacity" not in self.packages(moved)
