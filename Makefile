# Every target makes the virtual environment that it needs. Variables to override on the command line:
#   PYTHON    the interpreter that makes it (3.11 or newer)
#   VENV      its folder
#   PIP_ARGS  more arguments for every `pip install`, such as an index of CPU builds of torch
#   CONSTRAINTS  the file of pinned versions
#   WORKERS   processes that share the tests
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

BIN := $(VENV)/bin
# Without --no-compile pip compiles thousands of files of which a run imports few.
INSTALL := python -m pip --disable-pip-version-check install --quiet --no-compile $(PIP_ARGS)
PIP := $(BIN)/$(INSTALL) -c $(CONSTRAINTS)
# All tests of a file run in one worker, because its fixtures build models. Files keep their order: by default those with
# the fewest tests come last, among them the slowest.
PYTEST := python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev

# Tests that use transformers.
HOST_TESTS := tests/session tests/models tests/inputs tests/checkpoints tests/pipeline tests/streaming tests/cli/test_ask.py \
    tests/cli/test_inspect.py tests/inspection tests/test_docstrings.py

# The oldest supported transformers: a folder with the packages of other versions, before those of the environment on the
# path. It runs the tests whose outcome may depend on the release: every family in every use, arguments, caches, positions,
# copies, text models, processors, checkpoints. The ignored ones check code of this library on some models of a release that
# the others check in full; OLDEST_TESTS='$(HOST_TESTS)' runs them too.
OLDEST := 5.17
OLDEST_PACKAGES := $(abspath $(VENV)-$(OLDEST))
OLDEST_TESTS ?= tests/session tests/models tests/pipeline tests/streaming tests/checkpoints tests/test_docstrings.py $(addprefix --ignore=tests/, \
    $(addprefix session/test_, adaptive.py bad_input.py compiled.py devices.py dtypes.py memo.py newlines.py records.py splice.py \
        threads.py) session/lengths \
    $(addprefix models/common/test_, chunks.py saliency.py sinks.py tile_runs.py) \
    $(addprefix pipeline/test_, ask.py overlap.py) checkpoints/test_hub.py)

# What users install today: only torch is pinned. NEWEST_TESTS=tests runs all tests there.
NEWEST_VENV := $(VENV)-newest
NEWEST_CONSTRAINTS := $(NEWEST_VENV).txt
NEWEST_TESTS ?= $(HOST_TESTS)

# vLLM needs versions of its own, and its CPU build is another distribution.
VLLM_VENV ?= $(VENV)-vllm
VLLM := $(VLLM_VENV)/.vllm
SHIM := tests/support/serve/torchvision_operators.py
# Those that run vLLM or its code. `make test` runs the other tests of batch, which do not depend on it.
VLLM_TESTS := tests/serve tests/batch/test_engines.py tests/cli/test_serve.py

# The evaluation harnesses need versions of their own, and gigabytes.
HARNESS_VENV ?= $(VENV)-harness
HARNESS := $(HARNESS_VENV)/.harness

# The distributions are built and checked, then tried with the newest releases of everything but torch.
DIST_VENV := $(VENV)-dist

# The stock processors of videos need torchvision, which needs its own version of torch: a pair that runs on the CPU too.
PROCESSORS_VENV := $(VENV)-processors
PROCESSORS := $(PROCESSORS_VENV)/.processors
PROCESSORS_TORCH := torch==2.14.1 torchvision==0.29.1

# The page needs Gradio, and its tests Playwright and the system's Chromium: a folder with their packages, before those of
# the environment on the path. TEST_APP makes tests fail that would be skipped elsewhere.
APP_PACKAGES := $(abspath $(VENV)-app)
APP_TESTS := tests/app tests/cli/test_app.py tests/report/test_page_browser.py

.PHONY: help demo test test-oldest test-newest test-processors test-app test-vllm test-harness lint fmt type contracts docs dist bench figures dev clean

help:
	@echo "make demo       render a clip, ask the embedded model twice, compare"
	@echo "make test       run the tests              make test-oldest  those that depend on transformers, with $(OLDEST)"
	@echo "make test-newest  the same tests with the newest releases of everything but torch"
	@echo "make test-vllm  the tests of serving, with vLLM for CPUs"
	@echo "make test-harness  lmms-eval and VLMEvalKit on small data (an environment of 8 GB)"
	@echo "make test-processors  inputs beside those of the stock processors (an environment of 6 GB)"
	@echo "make test-app   the page in Chromium, which must be installed (an environment of 0.4 GB)"
	@echo "make lint       check style and formatting        make fmt    fix them"
	@echo "make type       check types                       make contracts  check import directions"
	@echo "make docs       build the site of docs/ into site/, with warnings as errors"
	@echo "make dist       build and check the wheel and the source distribution, and try both in a new environment"
	@echo "make bench      time the pruning on this machine  make dev    only make the environment"
	@echo "make figures    draw docs/figures with the embedded model"

demo: $(RUNTIME)
	$(BIN)/tangovlm demo

test: $(DEV)
	$(BIN)/$(PYTEST)

test-oldest: $(OLDEST_PACKAGES)/.installed
	@PYTHONPATH=$(OLDEST_PACKAGES) $(BIN)/python -c 'from transformers import __version__ as found; \
	    assert found.startswith("$(OLDEST)."), found'
	PYTHONPATH=$(OLDEST_PACKAGES) $(BIN)/$(PYTEST) $(OLDEST_TESTS)

test-processors: $(PROCESSORS)
	$(PROCESSORS_VENV)/bin/python -m pytest tests/processors tests/inputs/test_pixels.py

test-app: $(APP_PACKAGES)/.installed
	PYTHONPATH=$(APP_PACKAGES) TEST_APP=1 $(BIN)/$(PYTEST) $(APP_TESTS)

# The index is queried each time, so that a release of today is tested today.
test-newest: $(NEWEST_CONSTRAINTS)
	$(MAKE) --no-print-directory dev VENV=$(NEWEST_VENV) CONSTRAINTS=$<
	$(NEWEST_VENV)/bin/$(INSTALL) --upgrade --upgrade-strategy eager -c $< -e '.[dev]'
	@$(NEWEST_VENV)/bin/python -c 'from importlib.metadata import version; print("transformers", version("transformers"))'
	$(NEWEST_VENV)/bin/$(PYTEST) $(NEWEST_TESTS)

# Engines compute with one thread each. The environment may be older than this checkout.
test-vllm: $(VLLM)
	$(VLLM_VENV)/bin/$(INSTALL) --no-deps -e .
	$(VLLM_VENV)/bin/$(PYTEST) $(VLLM_TESTS)

# The environment may be older than this checkout.
test-harness: $(HARNESS)
	$(HARNESS_VENV)/bin/$(INSTALL) --no-deps -e .
	$(HARNESS_VENV)/bin/$(PYTEST) tests/harness

# All other packages are those of the environment, whose versions the oldest transformers supports too.
$(OLDEST_PACKAGES)/.installed: constraints-$(OLDEST).txt $(DEV)
	rm -rf $(OLDEST_PACKAGES)
	$(BIN)/$(INSTALL) --no-deps --target $(OLDEST_PACKAGES) -r $<
	@touch $@

$(APP_PACKAGES)/.installed: constraints-app.txt $(DEV)
	rm -rf $(APP_PACKAGES)
	$(BIN)/$(INSTALL) --no-deps --target $(APP_PACKAGES) -r $<
	@touch $@

$(NEWEST_CONSTRAINTS): constraints.txt
	grep '^torch==' $< > $@

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

# The variable leaves out a notice of the theme about its future.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The wheel is built from the source distribution, which must therefore be complete.
dist: $(NEWEST_CONSTRAINTS)
	rm -rf dist $(DIST_VENV)
	$(call new_venv,$(DIST_VENV))
	$(DIST_VENV)/bin/$(INSTALL) build twine
	$(DIST_VENV)/bin/python -m build --outdir dist
	$(DIST_VENV)/bin/python -m twine check --strict dist/*
	rm -rf $(DIST_VENV)
	$(call new_venv,$(DIST_VENV))
	$(DIST_VENV)/bin/$(INSTALL) -c $< torch
	$(DIST_VENV)/bin/$(INSTALL) -c $< dist/*.whl
	scripts/try_distributions.sh $(DIST_VENV) dist/*.whl dist/*.tar.gz

bench: $(RUNTIME)
	$(BIN)/tangovlm bench prune --shape 32,14,14,3584

# About a minute of CPU time.
figures: $(DEV)
	$(BIN)/python scripts/make_figures.py

dev: $(DEV)

clean:
	rm -rf $(VENV) $(OLDEST_PACKAGES) $(APP_PACKAGES) $(NEWEST_VENV) $(NEWEST_CONSTRAINTS) $(VLLM_VENV) $(HARNESS_VENV) $(PROCESSORS_VENV) $(DIST_VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

define new_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
    { echo "error: $(PYTHON) is older than Python 3.11: name a newer one, make PYTHON=python3.11" >&2; exit 2; }
@echo "Installing into $(1)"
$(PYTHON) -m venv $(1)
endef

# torch is installed first, so that no other package pulls in another build of it.
$(RUNTIME): pyproject.toml $(CONSTRAINTS)
	$(call new_venv,$(VENV))
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(DEV): $(RUNTIME)
	$(PIP) -e '.[dev]'
	@touch $@

# Only the pair is pinned: inputs are compared with the newest transformers. SmolVLM's processor needs num2words.
$(PROCESSORS): pyproject.toml
	$(call new_venv,$(PROCESSORS_VENV))
	$(PROCESSORS_VENV)/bin/$(INSTALL) $(PROCESSORS_TORCH)
	$(PROCESSORS_VENV)/bin/$(INSTALL) $(PROCESSORS_TORCH) num2words -e '.[dev]'
	@touch $@

# Every interpreter reads a .pth file at its start; a CPU build of torchvision does not need it.
$(VLLM): constraints-vllm.txt $(SHIM)
	$(call new_venv,$(VLLM_VENV))
	$(VLLM_VENV)/bin/$(INSTALL) --no-deps -r constraints-vllm.txt
	@$(VLLM_VENV)/bin/python -c 'import torchvision' 2>/dev/null || { \
	    site="$$($(VLLM_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
	    cp $(SHIM) "$$site"; \
	    echo 'import $(basename $(notdir $(SHIM)))' > "$$site/$(basename $(notdir $(SHIM))).pth"; }
	@touch $@

# Compiled, unlike the others: its tests start harnesses many times, which import a thousand files each.
$(HARNESS): constraints-harness.txt
	$(call new_venv,$(HARNESS_VENV))
	$(HARNESS_VENV)/bin/$(subst --no-compile,--compile,$(INSTALL)) --no-deps -r constraints-harness.txt
	@touch $@
