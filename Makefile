# Every task a person runs. `make help` lists them; the README's two commands are `make demo` and `make test`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
UV_INSTALL = $(UV) pip install --quiet --require-hashes --python

.PHONY: help
help: ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# --- environments: three, because SAM CLI, the local AWS and the project pin different SDK versions ---------------

$(UV): local/requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=python3.x ...); this is " + sys.version)'
	@echo "· creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r local/requirements/uv.txt 2>&1 | { grep -v '^WARNING: Location' || true; }
	@touch $@

$(VENV)/.ready: $(UV) tests/requirements.txt pyproject.toml
	@echo "· installing the project and its test tools"
	@$(UV_INSTALL) $(BIN)/python -r tests/requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.local/sam/.ready: $(UV) local/requirements/sam.txt
	@echo "· installing SAM CLI"
	@$(UV) venv --quiet --clear --python $(PYTHON) .local/sam
	@$(UV_INSTALL) .local/sam/bin/python -r local/requirements/sam.txt
	@touch $@

.local/aws/.ready: $(UV) local/requirements/cloud.txt
	@echo "· installing the local AWS"
	@$(UV) venv --quiet --clear --python $(PYTHON) .local/aws
	@$(UV_INSTALL) .local/aws/bin/python -r local/requirements/cloud.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready .local/sam/.ready .local/aws/.ready ## create the environments (the other tasks do it when needed)
