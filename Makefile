# Every target sets up what it needs, from a machine that has Python 3.11+ with venv and pip and can reach the package index.
# Works with GNU make 3.81 and later (Linux, macOS).

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
WORKERS ?= auto

RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready

.PHONY: help demo torch test test-all lint format types layers docs wheel lock clean

help:
	@echo "make demo      plan Llama-3.1-70B on eight H100s and write plan.html"
	@echo "make test      the tests, under three minutes"
	@echo "make test-all  all tests that need no GPU"
	@echo "make torch     install PyTorch beside it, whose tests are left out without it"
	@echo "make lint | types | layers | docs | wheel   the other checks of CI"
	@echo "make format    rewrite the code in the house format"
	@echo "make lock      resolve the lock files again"
	@echo "make clean     remove what the other targets made"

demo: $(RUN_READY)
	$(BIN)/gemmstone plan meta-llama/Llama-3.1-70B --on 8xh100-sxm --input 2048 --output 256 \
		--slo ttft=2s,tpot=50ms --report plan.html

test: $(DEV_READY)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow and not gpu"

test-all: $(DEV_READY)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not gpu"

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV_READY)
	$(BIN)/mypy

layers: $(DEV_READY)
	$(BIN)/lint-imports

# What measures PyTorch. Not in the lock: which build fits is the machine's to say (a processor's, CUDA's, ROCm's).
torch: $(DEV_READY)
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install --quiet "torch>=2.6"

docs: $(DEV_READY)
	$(BIN)/mkdocs build --strict --quiet

wheel: $(DEV_READY)
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Universal: one file for every platform and every Python from 3.11 on; markers select.
lock: $(DEV_READY)
	$(PIP) install --quiet "uv>=0.5"
	$(BIN)/uv pip compile pyproject.toml --group build --universal --python-version 3.11 --no-header --upgrade \
		--quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group build --extra dev --universal --python-version 3.11 --no-header \
		--constraint requirements.lock --upgrade --quiet --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) build dist site plan.html .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "gemmstone needs Python 3.11 or later; name it with: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(RUN_READY): requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) install --quiet -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_READY): requirements-dev.lock pyproject.toml | $(BIN)/python
	$(PIP) install --quiet -r requirements-dev.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@
