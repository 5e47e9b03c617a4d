"""The pages of docs/reference and THIRD_PARTY.md, from the code: `make reference`. A test holds that they are current."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deployments.say import say

ROOT: Final = Path(__file__).resolve().parents[1]
_MADE: Final = "<!-- Made by `make reference` from the code; changes here are lost. -->\n"
_LISTS: Final = ("base", "dolphin", "torch-cpu")
_OTHER_VARIABLES: Final = {
    "PDF_FLOWS_MODELS": "Where the dolphin engine's models are kept; new ones go to `~/.cache/pdf-flows/models` where it is "
    "not set or cannot be written.",
    "PDF_FLOWS_SPOT_NOTICE_FILE": "A file that appears when the machine is to be taken away, with `{worker}` and `{launch}` "
    "filled in. Set by the task definition on AWS.",
    "PDF_FLOWS_LOG_GROUP": "The CloudWatch group of the workers' logs, which links and `aws logs` read. Set on AWS.",
    "PDF_FLOWS_AWS_PROJECT": "The name of the stack, where a command is not told it with `--project`.",
    "PREFECT_API_URL": "A Prefect server of your own; without it `convert` starts one.",
    "PREFECT_API_KEY": "For Prefect Cloud.",
    "AWS_PROFILE": "Credentials come from boto3's default chain: this, AWS_ACCESS_KEY_ID, ~/.aws, a role.",
    "AWS_ENDPOINT_URL": "Another S3, such as MinIO.",
}


def pages() -> dict[str, str]:
    """Path below the root -> text."""
    return {
        "docs/reference/commands.md": _commands(),
        "docs/reference/flows.md": _flows(),
        "docs/reference/settings.md": _settings(),
        "docs/reference/records.md": _records(),
        "THIRD_PARTY.md": _third_party(),
    }


def main() -> int:
    """Write them all."""
    for name, text in pages().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        say(name)
    return 0


def _commands() -> str:
    from deployments.cli import app

    # It tells usages by how this process was started: this module, or pytest.
    text = re.sub(r" -m [\w.]+(?=\s)", "", app.generate_docs(output_format="markdown", recursive=True))
    return _MADE + re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _flows() -> str:
    from flows.convert_corpus import convert_corpus
    from flows.convert_partition import convert_partition
    from flows.retry_failures import retry_failures
    from flows.scale_run import scale_run

    parts = [
        _MADE + "# Flows",
        "What the Prefect UI's forms ask for, and what `prefect deployment run` takes with `--param`.",
    ]
    for flow in (convert_corpus, retry_failures, scale_run, convert_partition):
        schema = flow.parameters.model_dump()
        parts.append(f"## {flow.name}")
        parts.append(inspect.getdoc(flow.fn).split("\nArgs:")[0].strip())  # type: ignore[union-attr]
        rows = [
            (f"`{name}`", _kind(entry), _default(entry, name in schema["required"]), _help(entry))
            for name, entry in schema["properties"].items()
        ]
        parts.append(_table(("parameter", "type", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def _kind(entry: dict[str, Any]) -> str:
    options = entry.get("anyOf") or [entry]
    words = []
    for option in options:
        if "enum" in option:
            words += [f"`{value}`" for value in option["enum"]]
        elif "const" in option:
            words.append(f"`{option['const']}`")
        elif option.get("type") == "array":
            words.append("list of " + _kind(option.get("items", {})))
        elif option.get("type") != "null":
            words.append(str(option.get("type", "any")))
    return ", ".join(words)


def _default(entry: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = entry.get("default")
    return "" if value is None else f"`{value}`"


def _help(entry: dict[str, Any]) -> str:
    return " ".join(str(entry.get("description", "")).split())


def _settings() -> str:
    from deployments.server import ServerSettings
    from tasks.environment import Contract

    parts = [
        _MADE + "# Settings",
        "Everything about a run is an option of its command ([commands](commands.md)) or a parameter of its flow "
        "([flows](flows.md)). Environment variables say where this machine keeps things:",
        _table(
            ("variable", "type", "default", "meaning"),
            _fields(ServerSettings, lambda name: f"PDF_FLOWS_{name.upper()}"),
        ),
        _table(("variable", "meaning"), [(f"`{name}`", text) for name, text in _OTHER_VARIABLES.items()]),
        "## A worker without Prefect",
        "The image started with `WORKER_ID` takes its whole task from its environment ([image](../image.md)):",
        _table(("variable", "type", "default", "meaning"), _fields(Contract, _contract_name)),
    ]
    return "\n\n".join(parts) + "\n"


def _contract_name(name: str) -> str:
    return "AWS_DEFAULT_REGION" if name == "aws_default_region" else name.upper()


def _records() -> str:
    from tasks.corpus.failure_file import FailedDocument, FailedDocuments
    from tasks.corpus.failures import Category, Failure, Phase
    from tasks.corpus.ledger import Record
    from tasks.corpus.runs import Identity, RunSpec
    from tasks.report import Report

    parts = [
        _MADE + "# Records",
        "What a run writes below `<runs>/<run_id>/`, as JSON. Which object is where: [storage](../storage.md).",
    ]
    models: list[tuple[str, type[BaseModel]]] = [
        ("A line of `workers/<k>/<attempt>/ledger-<seq>.jsonl`", Record),
        ("`failure` in it", Failure),
        ("`run.json`", RunSpec),
        ("`identity` in it", Identity),
        ("`failures/worker-<k>-failures.json`", FailedDocuments),
        ("a document in it", FailedDocument),
        ("`report.json`", Report),
    ]
    for title, model in models:
        parts += [f"## {title}", _paragraph(model), _table(("field", "type", "default", "meaning"), _fields(model))]
    for title, values in (("Categories", Category), ("Phases", Phase)):
        parts += [f"## {title}", ", ".join(f"`{value}`" for value in values)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _paragraph(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split())


def _fields(model: type[BaseModel], spelled: Callable[[str], str] = str) -> Iterable[tuple[str, str, str, str]]:
    said = _attribute_docs(model)
    for name, field in model.model_fields.items():
        text = field.description or said.get(name, "")
        yield f"`{spelled(name)}`", _annotation(field), _field_default(field), " ".join(text.split())


def _annotation(field: FieldInfo) -> str:
    kind = field.annotation
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return "`" + re.sub(r"\b(?:[A-Za-z_]+\.)+([A-Za-z_]+)", r"\1", text) + "`"


def _field_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None:
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """The string behind each field, which is its documentation."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not (isinstance(one, type) and issubclass(one, BaseModel)) or one.__module__.startswith("pydantic"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, said in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(said, ast.Expr)
                and isinstance(said.value, ast.Constant)
                and isinstance(said.value.value, str)
            ):
                found[field.target.id] = said.value.value
    return found


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _third_party() -> str:
    """Of what is installed to run the project, by the licence that each package states itself."""
    rows = []
    for name, version in sorted(_pinned()):
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another system or Python
        rows.append((str(found.metadata["Name"]), version, _licence(name, found.metadata)))
    return (
        _MADE
        + "# Third-party software\n\n"
        + "What `make setup EXTRAS=dolphin` installs on Linux beside Python, by the licence that each package states;\n"
        + "the lists with hashes are in `requirements/`. The CUDA build of PyTorch brings NVIDIA's libraries, under\n"
        + "NVIDIA's own licences. The weights of Dolphin 1.0 and 1.5 are MIT; RapidOCR's wheel carries PaddleOCR's\n"
        + "models, Apache-2.0. PyMuPDF and what belongs to it is AGPL-3.0 or commercial.\n\n"
        + _table(("package", "version", "licence"), rows)
        + "\n"
    )


def _pinned() -> set[tuple[str, str]]:
    found = set()
    for name in _LISTS:
        for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines():
            if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^ ;\\]+)", line):
                found.add((match[1].lower(), match[2].split("+")[0]))
    return found


def _licence(name: str, metadata: Any) -> str:
    if name.startswith("pymupdf") and not metadata.get("License"):
        return "as PyMuPDF"  # whose version 2 contains them: what is left of these packages has no words of its own
    if expression := metadata.get("License-Expression"):
        return str(expression)
    named = [
        entry.split("::")[-1].strip() for entry in metadata.get_all("Classifier") or [] if entry.startswith("License")
    ]
    named = [entry for entry in named if entry != "OSI Approved"]
    if named:
        return ", ".join(named)
    stated = str(metadata.get("License") or "").strip()
    return stated.splitlines()[0][:60] if stated else "stated in its files"


if __name__ == "__main__":
    sys.exit(main())
