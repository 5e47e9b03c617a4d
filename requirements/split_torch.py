"""After dolphin.txt is compiled: moves torch and what its CUDA build needs to torch.txt.

And writes torch-cpu.txt, which may stand for it.

Run by `make lock`.
"""

import re
from pathlib import Path

HERE = Path(__file__).parent
CPU_BUILD = ("2.13.0", "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b")
"""sha256 of torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl as PyTorch publishes it; a new torch needs a new one."""
ENTRY = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)
OF_TORCH = re.compile(r"(torch|triton)==|nvidia-|cuda-")


def main() -> None:
    """Split the list in place."""
    entries = ENTRY.split((HERE / "dolphin.txt").read_text())
    torch = [entry for entry in entries if OF_TORCH.match(entry)]
    (HERE / "dolphin.txt").write_text("".join(entry for entry in entries if entry not in torch))
    (HERE / "torch.txt").write_text("".join(torch))
    version, sha256 = CPU_BUILD
    if not any(entry.startswith(f"torch=={version} ") for entry in torch):
        raise SystemExit("requirements/split_torch.py knows no CPU build of the torch that dolphin.in asks for")
    (HERE / "torch-cpu.txt").write_text(f"torch=={version}+cpu \\\n    --hash=sha256:{sha256}\n")


main()
