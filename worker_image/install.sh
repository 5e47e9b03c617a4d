#!/bin/sh
# One layer of the image's packages: install.sh cuda|torch|base|extras|project. TORCH is the Dockerfile's build argument.
set -eu
lists=/opt/lists
export VIRTUAL_ENV=/opt/venv
if [ -z "${UV_FIND_LINKS:-}" ]; then unset UV_FIND_LINKS; fi
if [ -z "${UV_DEFAULT_INDEX:-}" ]; then unset UV_DEFAULT_INDEX; fi

# What the lists name, and nothing that they do not: they are complete.
packages() { /opt/uv/bin/uv pip install --no-deps --only-binary :all: "$@"; }

# The entries of a list that begin as the pattern says: a package with its hashes, over several lines.
entries() { awk -v wanted="$1" '/^[A-Za-z0-9]/ { keep = ($0 ~ wanted) } keep' "$2"; }

part() { # part PATTERN: of the list with PyTorch
    entries "$1" "$lists/$TORCH.txt" >/tmp/part.txt
    if [ -s /tmp/part.txt ]; then packages -r /tmp/part.txt; fi
    rm /tmp/part.txt
}

case $1-$TORCH in
cuda-none | torch-none) ;;
cuda-*) part '^(nvidia|cuda)-' ;; # 2 GB of the 3: a layer of their own, so that none becomes too large to be pulled fast
torch-*) part '^(torch|triton)==' ;;
base-*) packages -r "$lists/base.txt" ;;
extras-*)
    if [ "$TORCH" != none ]; then packages -r "$lists/dolphin.txt"; fi
    if [ -f "$lists/aws.txt" ]; then packages -r "$lists/aws.txt"; fi
    /opt/uv/bin/uv pip check
    ;;
project-*)
    UV_REQUIRE_HASHES=0 /opt/uv/bin/uv pip install --no-deps --no-build-isolation --editable /opt/pdf-flows
    /opt/venv/bin/python -m compileall -q flows tasks deployments worker_image
    ;;
*)
    echo "install.sh: no such part: $1" >&2
    exit 2
    ;;
esac
