# Every target works on a fresh machine with Python 3.11, make and a Python package index:
# the first one that needs them creates .venv and installs what the project declares.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TEST_WORKERS ?= 2
TEST_ARGS    ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 is needed: install it, or say make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is another: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "setting up $(VENV) (once; later runs skip this)"
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "creating $(VENV) failed: on Debian, apt-get install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

.PHONY: setup
setup: $(STAMP) ## create .venv and install (every other target does it too)

.PHONY: demo
demo: $(STAMP) ## back up, damage, lose and restore real datasets, in under three minutes
	@$(BIN)/backup-pipeline demo

.PHONY: ui
ui: $(STAMP) ## open Dagster on some sixty seeded days, on http://127.0.0.1:3000
	@$(BIN)/python -m backup_pipeline.demo ui

.PHONY: test
test: $(STAMP) browser ## run the tests, two at a time, but for the slow fault rigs
	@$(BIN)/python -m pytest -q -rs -n $(TEST_WORKERS) --dist loadgroup -m "not faults" $(TEST_ARGS)

.PHONY: faults
faults: $(STAMP) ## run the slow fault rigs: kills, full disks, power cuts, a stopped S3 server
	@$(BIN)/python -m pytest -q -rs -n $(TEST_WORKERS) --dist loadgroup -m faults $(TEST_ARGS)

.PHONY: reliability
reliability: $(STAMP) browser ## run the tests, and write what they prove into docs/reliability.md
	@mkdir -p .reliability
	@$(BIN)/python -m pytest -q -rs -n $(TEST_WORKERS) --dist loadgroup --junitxml .reliability/run.xml $(TEST_ARGS); \
	  $(BIN)/python -m benchmarks.reliability .reliability/run.xml

.PHONY: lint
lint: $(STAMP) ## style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

.PHONY: bench
bench: $(STAMP) ## measure beside restic, borg and rclone (hours; python -m benchmarks.run --help)
	@$(BIN)/python -m benchmarks

.PHONY: browser
browser:
	@./.ci/chromium

.PHONY: clean
clean: ## remove .venv, the demo's files and every cache
	@rm -rf $(VENV) .demo .dagster_home .pytest_cache .ruff_cache .hypothesis .import_linter_cache
