# All tasks. `make help` lists them; the README's two commands are `make demo` and `make test`.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Lambda's version if it is installed, else the lowest that works. `local/find-python` runs only to make an environment.
PYTHON ?= $(shell local/find-python 3.13 3.11 3.12 3.14 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
UV_INSTALL = $(UV) pip install --quiet --require-hashes --python

.PHONY: help
help: ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

# --- environments: three, because SAM CLI, the local AWS and the project pin different SDK versions ---------------

$(UV): local/requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=python3.x ..., or first `make python`); this is " + sys.version)'
	@echo "· creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r local/requirements/uv.txt
	@touch $@

$(VENV)/.ready: $(UV) tests/requirements.txt pyproject.toml
	@echo "· installing the project and its test tools"
	@$(UV_INSTALL) $(BIN)/python -r tests/requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.local/sam/.ready: $(UV) local/requirements/sam.txt
	@echo "· installing SAM CLI"
	@$(UV) venv --quiet --clear --python $(BIN)/python .local/sam
	@$(UV_INSTALL) .local/sam/bin/python -r local/requirements/sam.txt
	@touch $@

.local/aws/.ready: $(UV) local/requirements/cloud.txt
	@echo "· installing the local AWS"
	@$(UV) venv --quiet --clear --python $(BIN)/python .local/aws
	@$(UV_INSTALL) .local/aws/bin/python -r local/requirements/cloud.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready .local/sam/.ready .local/aws/.ready ## create the environments (the other tasks do it when needed)

.PHONY: python
python: ## get the Python that Lambda runs, if it is not installed, to a folder outside of the checkout
	@local/get-python

READY := $(VENV)/.ready .local/sam/.ready .local/aws/.ready
SAM := SAM_CLI_TELEMETRY=0 .local/sam/bin/sam

# Three processes for two cores, because half of the tests' time is waiting. Each file stays in one process, because its
# fixtures may take a minute.
PYTEST_PARALLEL := -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# --- the tasks of the README --------------------------------------------------------------------------------------

.PHONY: demo
demo: $(READY) ## show the main job on a local cloud: build, deploy, call, refuse, rotate, run the campaigns job
	@$(BIN)/python -m local.demo

.PHONY: test
test: $(READY) build ## run all tests
	@$(BIN)/python $(PYTEST_PARALLEL) $(PYTEST)

.PHONY: local
local: $(READY) ## run the local cloud with the stack deployed, until Ctrl-C (for containers on Linux: BRIDGE=docker0)
	@$(BIN)/python -m local.up $(if $(BRIDGE),--bridge $(BRIDGE))

FUNCTION ?= broker
EVENT ?= events/token-default.json
.PHONY: invoke
invoke: $(READY) build ## send one event through the built artefact (FUNCTION=broker|campaigns EVENT=events/...json), with `make local` up
	@$(BIN)/python -m local.invoke $(FUNCTION) $(EVENT)

.PHONY: sam-local
sam-local: $(READY) build ## run `sam local` in real containers, without an installed engine (Debian, root): three minutes
	@$(BIN)/python -m local.sam_local

.PHONY: check
check: $(READY) ## check what CI checks besides the tests: lint, format, types, template, locks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cfn-lint template.yaml
	$(BIN)/python -m local.translated_template .local/translated.json && $(BIN)/cfn-lint .local/translated.json
	$(SAM) validate --lint
	$(BIN)/python -m local.locks --check

.PHONY: coverage
coverage: $(VENV)/.ready ## say which branches of functions, client and command line no test takes, subprocesses included
	@$(BIN)/coverage erase
	@$(BIN)/coverage run $(PYTEST_PARALLEL) -q $(addprefix tests/,client cli unit fakes broker campaigns scenarios faults/test_exchange.py)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=100

.PHONY: compatibility
compatibility: $(VENV)/.ready ## test the wheel in empty environments, with the lowest and the locked versions of its dependencies
	@$(BIN)/python -m local.compatibility

.PHONY: build
build: $(READY) ## sam build
	@$(BIN)/python -m local.build
	@[ ! -e .local/container ] || $(BIN)/python -m local.container

.PHONY: wheel
wheel: $(VENV)/.ready ## build what callers install, and print how to install it by its hash
	@$(BIN)/python -m local.wheel

STAGE ?= default
.PHONY: deploy
deploy: build ## sam deploy to the AWS account that your credentials belong to (asks first; STAGE=test: the test stack)
	@$(SAM) deploy --config-env $(STAGE)
	@echo "· to check it: make verify-deployment STACK=... (docs/deploying.md)"

STACK ?= token-broker
.PHONY: verify-deployment
verify-deployment: $(READY) ## make ten checks of a deployed stack (STACK=token-broker); changes nothing, exchanges nothing
	@$(BIN)/python -m local.verify_deployment $(STACK)

.PHONY: promote
promote: $(READY) ## deploy the artefacts that another stack runs (FROM=token-broker-test)
	@$(BIN)/python -m local.promote $(FROM) --stage $(STAGE)

MINUTES ?= 5
.PHONY: soak
soak: $(READY) ## run simulation and races with fresh seeds for MINUTES=n, and say what they did
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

.PHONY: bench
bench: $(READY) build ## measure cold start, warm call, stampede, client and sizes side by side; writes docs/
	@$(BIN)/python -m bench

.PHONY: lock
lock: $(READY) ## compile every lock from pyproject.toml again
	@$(BIN)/python -m local.locks --write

.PHONY: clean
clean: ## remove what the other tasks made
	rm -rf $(VENV) .local .aws-sam dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
