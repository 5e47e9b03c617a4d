# Everything this project needs besides Python 3.11+, git and make is installed by it, into .venv and .tools. `make` lists the targets.
.SUFFIXES:
.DEFAULT_GOAL := help

INPUT ?= samples
OUTPUT ?= markdown
ARGS ?=
EXTRAS ?=

# Recipes get these through the environment, as typed. Nothing is pasted into a shell line or expanded by make, so that a name may
# hold blanks, quotes and dollars.
unexport INPUT OUTPUT ARGS EXTRAS
export MAKE_INPUT := $(value INPUT)
export MAKE_OUTPUT := $(value OUTPUT)
export MAKE_ARGS := $(value ARGS)
export MAKE_EXTRAS := $(value EXTRAS)

# Runs a command with ARGS behind it, split as a shell would split it and not otherwise evaluated.
define WITH_ARGS
import os, shlex, sys
for name in ("MAKE_INPUT", "MAKE_OUTPUT", "MAKE_EXTRAS", "MAKE_WITH_ARGS"):
    os.environ.pop(name, None)
try:
    args = shlex.split(os.environ.pop("MAKE_ARGS", ""))
except ValueError as error:
    sys.exit(f"pdf-flows: ARGS: {error}")
os.execv(sys.argv[1], [*sys.argv[1:], *args])
endef
export MAKE_WITH_ARGS := $(value WITH_ARGS)

install := sh requirements/install.sh
with_args := exec .venv/bin/python -IS -c "$$MAKE_WITH_ARGS"
pytest := .venv/bin/python -m pytest
compile := .tools/uv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11

# Runs the tests with a marker; that no test has it (pytest's exit status 5) is no failure.
marked = $(pytest) -m $(1) --collect-only >/dev/null 2>&1 || [ $$? -ne 5 ] || { echo "No test is marked $(1)."; exit 0; }; \
	$(with_args) $(pytest) -m $(1)

.PHONY: help convert setup test test-slow test-ui screenshots reference soak rehearse check checkov lock clean

help:
	@echo 'make convert [INPUT=samples] [OUTPUT=markdown] [ARGS="--workers 4"]'
	@echo '                  convert a folder or s3:// prefix of PDFs to Markdown; ARGS: options of pdf-flows convert'
	@echo 'make setup        install only, into .venv; EXTRAS=dolphin adds an extra'
	@echo 'make test         the default tests; ARGS: options of pytest (so for the next three)'
	@echo 'make test-slow    the tests that take longer'
	@echo 'make test-ui      the tests that drive the Prefect UI in Chromium'
	@echo 'make screenshots  the pictures of docs/, made anew'
	@echo 'make reference    docs/reference and THIRD_PARTY.md, made anew from the code; EXTRAS=dolphin once before'
	@echo 'make soak         the tests that take too long for CI (docs/soak.md)'
	@echo 'make rehearse     pdf-flows rehearse: a run on a pretended AWS (docs/rehearsal.md); INPUT: a folder of PDFs; ARGS: its options'
	@echo 'make check        linter, formatting, types, import contracts'
	@echo 'make checkov      the CloudFormation template under checkov, in an environment of its own'
	@echo 'make lock         requirements/*.in -> requirements/*.txt; ARGS=--upgrade takes newer versions'
	@echo 'make clean        remove what make installed and the caches; keeps outputs'

convert:
	@$(install) && $(with_args) .venv/bin/pdf-flows convert "$$MAKE_INPUT" "$$MAKE_OUTPUT"

setup:
	@$(install)

test:
	@$(install) dev && $(with_args) $(pytest) -n 3 --dist worksteal

test-slow:
	@$(install) dev && { $(call marked,slow); }

test-ui:
	@$(install) dev && { $(call marked,ui); }

screenshots:
	@$(install) dev && .venv/bin/python tests/flows/screenshots.py docs/images

reference:
	@$(install) dev && .venv/bin/python -m deployments.reference

soak:
	@$(install) dev && { $(call marked,soak) --timeout 0; }

rehearse:
	@$(install) dev && $(with_args) .venv/bin/pdf-flows rehearse "$$MAKE_INPUT"

check:
	@$(install) dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# A finding that deployments/aws/checkov.yaml does not justify fails, and so does one that it justifies and is there no more.
checkov:
	@$(install) dev && $(install) --tool checkov
	CHECKOV="$$PWD/.tools/checkov/bin/checkov" $(pytest) -m slow tests/unit/test_infrastructure.py -k test_checkov

# With the pinned uv, not the caller's. base and dolphin first: the others are held to their versions. torch goes into a
# list of its own, with the CUDA libraries that its build for Linux needs, so that machines with a CPU build do without them.
lock:
	@$(install) --uv
	@for list in base dolphin $$(cd requirements && ls *.in | sed -e 's/\.in$$//' -e '/^base$$/d' -e '/^dolphin$$/d'); do \
	    echo "requirements/$$list.txt"; \
	    (exec .tools/uv/bin/python -IS -c "$$MAKE_WITH_ARGS" $(compile) "requirements/$$list.in" --output-file "requirements/$$list.txt") || exit; \
	    if [ $$list = dolphin ]; then .tools/uv/bin/python -IS requirements/split_torch.py || exit; fi; \
	done

clean:
	rm -rf .venv .tools build pdf_flows.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .coverage
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
