#!/bin/sh
# Makes .venv hold exactly what the requirement lists say, and this project, editable. Costs milliseconds when it already does.
#
#   requirements/install.sh [LIST ...]   base.txt, the named lists (dev, or an extra), and what earlier calls asked for
#   requirements/install.sh --uv         only bring the pinned uv into .tools/uv
#   requirements/install.sh --tool LIST  only bring a program that has a list of its own (checkov) into .tools/LIST
#
# EXTRAS in the environment (MAKE_EXTRAS from the Makefile) names extras, split by blanks or commas; PYTHON names the interpreter.
set -euf
unset CDPATH
cd -- "$(dirname -- "$0")/.."
here=$(pwd -P)
done_file=.venv/.installed       # what .venv holds: the folder it was made for, its lists, their checksums
busy_file=.venv/.installing      # there while .venv is being changed, so left by an install that was killed

say() { printf '%s\n' "$*" >&2; }
fail() { say "pdf-flows: $*"; exit 2; }

# The extras that exist, split by blanks: every list but those that are no extras.
extras() {
    found=$(set +f; cd requirements && ls -- *.txt | sed -e 's/\.txt$//' -e '/^base$/d' -e '/^torch/d' -e '/^dev$/d' -e '/^uv$/d' -e '/^checkov$/d' | tr '\n' ' ')
    printf '%s' "${found% }"
}

# All lists wanted, sorted, as words: those asked for and those that .venv already holds.
wanted() {
    held=''
    if [ -f "$done_file" ]; then held=$(sed -n 2p "$done_file" | sed 's/torch[^ ]*//'); fi
    for list in base $held "$@"; do
        if [ -f "requirements/$list.txt" ]; then printf '%s\n' "$list"; fi
        if [ "$list" = dolphin ]; then torch_list; fi
    done | LC_ALL=C sort -u | tr '\n' ' '
}

# The list that brings torch: PyTorch's CPU build where a folder of PIP_FIND_LINKS holds it for this interpreter, a tenth of the size, else
# the index's, which on Linux comes with CUDA libraries.
torch_list() {
    pinned=$(sed -n 's/^torch==\([^ ]*\) .*/\1/p' requirements/torch-cpu.txt)
    interpreter=.venv/bin/python
    if [ ! -x "$interpreter" ]; then interpreter=$(first_python True); fi
    build=$(${interpreter:-false} -c 'import sys; print("cp%d%d" % sys.version_info[:2])' 2>/dev/null || true)
    for folder in ${PIP_FIND_LINKS:-}; do
        if [ -f "$folder/torch-$pinned-$build-$build-manylinux_2_28_$(uname -m).whl" ]; then printf 'torch-cpu\n'; return; fi
    done
    printf 'torch\n'
}

files() { for list in $lists; do printf 'requirements/%s.txt ' "$list"; done; }

state() { printf '%s\n%s\n' "$here" "$lists"; cksum pyproject.toml $(files); }

up_to_date() {
    [ -f "$done_file" ] && [ ! -e "$busy_file" ] && [ -x .venv/bin/python ] && [ "$(state)" = "$(cat "$done_file")" ]
}

# What a caller's own Python, pip and uv settings would change in what gets installed, and where. Where to download from stays theirs.
neutral() {
    unset PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX __PYVENV_LAUNCHER__
    unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_REQUIRE_VIRTUALENV PIP_REQUIREMENT PIP_CONSTRAINT PIP_EDITABLE
    unset PIP_NO_BINARY PIP_ONLY_BINARY PIP_NO_DEPS PIP_DRY_RUN PIP_IGNORE_INSTALLED PIP_PLATFORM PIP_PYTHON_VERSION PIP_LOG
    unset UV_PYTHON UV_SYSTEM_PYTHON UV_BREAK_SYSTEM_PACKAGES UV_REQUIRE_HASHES UV_NO_DEPS UV_CONSTRAINT UV_OVERRIDE UV_EXCLUDE
    unset UV_NO_BINARY UV_NO_BUILD UV_NO_BUILD_ISOLATION UV_EXCLUDE_NEWER UV_RESOLUTION UV_PRERELEASE UV_NO_VERIFY_HASHES UV_FROZEN
    export UV_PYTHON_DOWNLOADS=never
    # uv reads none of pip's settings: hand over the three that a closed network needs.
    if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$PIP_INDEX_URL}}"; fi
    if [ -n "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS="${UV_FIND_LINKS:-$(printf '%s' "$PIP_FIND_LINKS" | tr ' ' ',')}"; fi
    if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"; fi
}

# The first interpreter of 3.11 or newer that also passes the given Python expression.
first_python() {
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if [ -n "${PYTHON:-}" ]; then candidate=$PYTHON; fi
        # Versions managers' shims exist for interpreters that do not: only running one tells.
        if "$candidate" -c "import sys; sys.exit(not (sys.version_info >= (3, 11) and $1))" >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

find_python() {
    python=$(first_python True)
    [ -n "$python" ] && return
    if [ -n "${PYTHON:-}" ]; then fail "PYTHON=$PYTHON is not a Python 3.11 or newer; name one that is"; fi
    fail "Python 3.11 or newer is needed and not found; install it, or name it: make setup PYTHON=/path/to/python3.12"
}

# Sets uv to the pinned one in .tools/uv, installing it there first where it is missing.
bring_uv() {
    uv=.tools/uv/bin/uv
    pinned=$(cksum requirements/uv.txt)
    if [ -x "$uv" ] && [ -f .tools/uv/.installed ] && [ "$(cat .tools/uv/.installed)" = "$pinned" ]; then return; fi
    find_python
    python=$(first_python '__import__("importlib.util").util.find_spec("ensurepip") and __import__("venv")')
    [ -n "$python" ] || fail "this Python cannot make virtual environments (no ensurepip); on Debian and Ubuntu: apt-get install python3-venv"
    say "Installing uv into .tools/uv ..."
    rm -rf .tools/uv
    "$python" -m venv .tools/uv || fail "$python could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
    .tools/uv/bin/python -m pip install --quiet --no-user --disable-pip-version-check --no-input \
        --require-hashes --only-binary :all: -r requirements/uv.txt ||
        fail "uv could not be installed (see above); the Python package index must be reachable, or PIP_INDEX_URL name a mirror"
    printf '%s\n' "$pinned" >.tools/uv/.installed
}

# Sets uv to the caller's own where it is recent enough, else to the pinned one.
find_uv() {
    uv=uv
    case $(uv --version 2>/dev/null || true) in
    'uv 0.9.'* | 'uv 0.'[1-9][0-9]'.'* | 'uv '[1-9]*) ;;
    *) bring_uv ;;
    esac
}

# A program whose packages would collide with the project's, in an environment of its own.
bring_tool() {
    [ -f "requirements/$1.txt" ] || fail "no such tool: $1 (there is no requirements/$1.txt)"
    folder=.tools/$1
    asked=$(printf '%s\n' "$here"; cksum "requirements/$1.txt")
    if [ -f "$folder/.installed" ] && [ "$(cat "$folder/.installed")" = "$asked" ]; then return; fi
    find_uv
    find_python
    say "Installing $1 into $folder ..."
    rm -rf "$folder"
    "$uv" --quiet venv --python "$python" "$folder"
    "$uv" --quiet pip sync --python "$folder/bin/python" --require-hashes --only-binary :all: "requirements/$1.txt" ||
        fail "$1 could not be installed (see above); the same command tries again"
    printf '%s\n' "$asked" >"$folder/.installed"
}

# Two calls at a time take turns, where the system has flock.
take_turns() {
    mkdir -p .tools
    if command -v flock >/dev/null 2>&1; then
        exec 9>.tools/lock
        flock 9
    fi
}

install() {
    place=''
    if [ -f "$done_file" ]; then place=$(sed -n 1p "$done_file"); fi
    # One that was cut short, has lost its interpreter or was moved along with its folder cannot be mended in place.
    if [ -e "$busy_file" ] || [ ! -x .venv/bin/python ] || [ "${place:-$here}" != "$here" ]; then rm -rf .venv; fi
    find_uv
    if [ ! -d .venv ]; then
        find_python
        "$uv" --quiet venv --python "$python" .venv
    fi
    : >"$busy_file"
    rm -f "$done_file"
    say "Installing into .venv: ${lists% } ($(cat $(files) | grep -o '^[a-z0-9][^= ]*==' | sort -u | grep -c .) packages) ..."
    quiet=--quiet
    if [ -t 2 ]; then quiet=''; fi
    # A wheel for every package or none at all: nothing is built from unhashed build requirements.
    # Bytecode now, once: processes that may not write it (the sandbox's) would compile everything again at every start.
    "$uv" $quiet pip sync --compile-bytecode --python .venv/bin/python --require-hashes --only-binary :all: $(files) ||
        fail "the packages could not be installed (see above); the same command tries again"
    "$uv" $quiet pip install --python .venv/bin/python --no-deps --no-build-isolation --editable . ||
        fail "the project could not be installed into .venv (see above)"
    .venv/bin/python -m compileall -q flows tasks deployments
    state >"$done_file.new"
    mv -f "$done_file.new" "$done_file"
    rm -f "$busy_file"
}

if [ "${1:-}" = --uv ]; then
    neutral
    take_turns
    bring_uv
    exit
fi
if [ "${1:-}" = --tool ]; then
    neutral
    take_turns
    bring_tool "${2:-}"
    exit
fi
asked=$(printf '%s' "${MAKE_EXTRAS-${EXTRAS:-}}" | tr ',' ' ')
for extra in $asked; do
    existing=$(extras)
    case " $existing " in
    *" $extra "*) ;;
    *) fail "no such extra: $extra (there is: ${existing:-none yet})" ;;
    esac
done
lists=$(wanted "$@" $asked)
if up_to_date; then exit 0; fi
neutral
take_turns
lists=$(wanted "$@" $asked)
if up_to_date; then exit 0; fi
install
