# Two commands: `make demo` and `make test`. Everything they write stays in folders that git ignores.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(CURDIR)/.cache

export TMPDIR := $(CACHE)/tmp
export PIP_CACHE_DIR := $(CACHE)/pip
export HF_HOME := $(CACHE)/huggingface
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow lint bench clean

demo: $(VENV)/installed | $(TMPDIR)
	$(BIN)/vlmlake demo

test: $(VENV)/installed | $(TMPDIR)
	$(BIN)/pytest

test-slow: $(VENV)/installed | $(TMPDIR)
	$(BIN)/pytest -m slow

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(VENV)/installed | $(TMPDIR)
	$(BIN)/python benchmarks/extraction.py --check
	$(BIN)/python benchmarks/store.py --check
	$(BIN)/python benchmarks/analysis.py --check
	$(BIN)/python benchmarks/interventions.py --check
	$(BIN)/python benchmarks/queries.py --check

$(TMPDIR):
	mkdir -p $@

$(VENV)/installed: pyproject.toml constraints.txt | $(TMPDIR)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: name a newer one, as in make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[ingest,dev]"
	touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache demo-lake
