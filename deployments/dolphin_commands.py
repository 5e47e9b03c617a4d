"""The command line's commands about the dolphin engine: its weights, and what it does on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter

from deployments.say import Json, print_json, say, tell
from tasks.engines.dolphin.settings import DEFAULT_MODEL

DOLPHIN = Group("Dolphin engine", sort_key=1)
Model = Annotated[
    str, Parameter(group=DOLPHIN, help="A Hugging Face id, a folder, or s3://bucket/prefix with the weights.")
]
Revision = Annotated[
    str | None, Parameter(group=DOLPHIN, help="Of a Hugging Face id. Default: the pinned one of a known model.")
]

weights = App(name="weights", help="The dolphin engine's model files.")


@weights.command(name="fetch")
def weights_fetch(
    model: Annotated[str, Parameter(help="A Hugging Face id, a folder, or s3://bucket/prefix.")] = DEFAULT_MODEL,
    /,
    *,
    revision: Revision = None,
    to: Annotated[str | None, Parameter(help="Keep the files in this folder instead of the models' folder.")] = None,
    as_json: Json = False,
) -> int:
    """Fetch a model's files, check their sha256 and that it is a model that the dolphin engine runs."""
    from tasks.weights import check_installed, checkpoint_folder

    check_installed()
    folder = checkpoint_folder(model, revision, to=Path(to).expanduser() if to is not None else None, verify=True)

    from tasks.engines.dolphin.checkpoint import Checkpoint

    found = Checkpoint(folder)
    generation = found.recognised()
    facts = {
        "folder": str(folder),
        "generation": generation.value if generation is not None else None,
        "parameters": found.parameters(),
        "sha256": found.fingerprint(),
    }
    if as_json:
        print_json(facts)
    else:
        for name, value in facts.items():
            say(f"{name + ':':<12} {value if value is not None else 'not recognised: give --generation'}")
    return 0


def gpu_check(
    *,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    generation: Annotated[
        Literal["1.0", "1.5"] | None, Parameter(group=DOLPHIN, help="Default: recognised by the model's name.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"] | None, Parameter(help="Default: the GPU where there is one.")] = None,
    slots: Annotated[int | None, Parameter(help="Texts read at the same time. Default: by the memory.")] = None,
    pdf: Annotated[
        list[str] | None, Parameter(negative="", help="Read this PDF (may be given again); not the samples.")
    ] = None,
    usd_per_hour: Annotated[float | None, Parameter(help="Price of the machine, for USD per 1,000 pages.")] = None,
    as_json: Json = False,
) -> int:
    """Show that the dolphin engine reads here as it should, and how fast. Exit 0 only if all that has to agree does."""
    from tasks.weights import check_installed, checkpoint_folder

    check_installed()
    folder = checkpoint_folder(model, revision)

    from deployments.gpu_check import SAMPLES, render
    from tasks.engines.dolphin.gpucheck import check
    from tasks.engines.dolphin.grammar import Generation
    from tasks.engines.dolphin.settings import DeviceKind

    pages = render([Path(name) for name in pdf] if pdf else sorted(SAMPLES.glob("*.pdf")))
    report = check(
        folder,
        pages,
        device=DeviceKind(device) if device is not None else None,
        generation=Generation(generation) if generation is not None else None,
        slots=slots,
        usd_per_hour=usd_per_hour,
        say=tell,
    )
    if as_json:
        print_json({**report.model_dump(mode="json"), "passed": report.passed})
    else:
        for name, value in report.model_dump(mode="json").items():
            say(f"{name + ':':<22} {value}")
        say("passed" if report.passed else "FAILED: the ways of reading do not agree")
        if report.peak_memory_gib is None:
            say("nothing of a GPU was checked: there is none, or --device cpu was given")
    return 0 if report.passed else 1
