# Every target makes the virtual environment that it needs. Variables to override on the command line:
#   PYTHON    the interpreter that makes it (3.11 or newer)
#   VENV      where it lies
#   PIP_ARGS  more arguments for every `pip install`, such as an index of CPU builds of torch
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

BIN := $(VENV)/bin
# Without --no-compile pip compiles thousands of files of which a run imports few.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt $(PIP_ARGS)
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev

.PHONY: help demo test lint fmt type contracts bench dev clean

help:
	@echo "make demo       render a clip, ask the embedded model twice, compare"
	@echo "make test       run the tests"
	@echo "make lint       check style and formatting        make fmt    mend them"
	@echo "make type       check types                       make contracts  check import directions"
	@echo "make bench      time the pruning on this machine  make dev    only make the environment"

demo: $(RUNTIME)
	$(BIN)/tangovlm demo

test: $(DEV)
	$(BIN)/python -m pytest

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(DEV)
	$(BIN)/mypy

contracts: $(DEV)
	$(BIN)/lint-imports

bench: $(RUNTIME)
	$(BIN)/tangovlm bench prune --shape 32,14,14,3584

dev: $(DEV)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# torch goes first: the pinned build is then in place before anything else asks for "some torch".
$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than Python 3.11: name a newer one, make PYTHON=python3.11" >&2; exit 2; }
	@echo "Installing into $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(DEV): $(RUNTIME)
	$(PIP) -e '.[dev]'
	@touch $@
