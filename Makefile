# Everything a newcomer needs, with Python 3.11 and make alone. `make` lists the targets.
# Paths are relative, so that the project may live in a folder with spaces in its name.

PYTHON ?= python3
UV := $(PYTHON) tools/uv.py
BIN := .venv/bin
RUN := .venv/installed-run
DEV := .venv/installed-dev
# Own data, once there is a configuration for it; until then the sample world. The two never share a folder.
UP_HOME := $(or $(METAMON_HOME),$(if $(wildcard .metamon/metamon.yaml .metamon/postgres),.metamon,.metamon-sample))
SAMPLE_HOME := $(or $(METAMON_HOME),.metamon-sample)
# Own data may have come since `make up` brought up the sample world: what is there of both is stopped.
DOWN_HOMES := $(if $(METAMON_HOME),"$(METAMON_HOME)",$(or $(wildcard .metamon .metamon-sample),.metamon))

export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
export VIRTUAL_ENV := .venv

.PHONY: help run up down test coverage lint types bench lock clean install install-dev
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 18

run: export METAMON_HOME := $(SAMPLE_HOME)
run: $(RUN)  ## set everything up, run the pipeline over the sample world (some minutes), say what it found
	exec $(BIN)/metamon simulate
	exec $(BIN)/metamon run

# exec: a signal to make reaches the program, and not a shell that would die alone.
up: export METAMON_HOME := $(UP_HOME)
up: $(RUN)  ## keep the live feed, the alerts, the web server and Dagster running until Ctrl-C
	exec $(BIN)/metamon up

down: $(RUN)  ## stop what `make up` started
	@failed=0; for home in $(DOWN_HOMES); do METAMON_HOME="$$home" $(BIN)/metamon down || failed=1; done; exit $$failed

test: $(DEV)  ## run the tests; TESTS="path -k word" narrows them
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=10 $(TESTS)

coverage: $(DEV)  ## run the tests and say which lines none of them runs; takes a third longer
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered $(TESTS)

lint: $(DEV)  ## style, import rules
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(DEV)  ## types
	$(BIN)/mypy

bench: $(DEV)  ## measure; BENCH="--quick --check" is handed to every script
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" $(BENCH); done

lock: | .venv/bin/python  ## pin every dependency again, with hashes and without addresses; LOCK=--upgrade takes newer ones
	$(UV) pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra build pyproject.toml -o requirements.lock $(LOCK)
	$(UV) pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra build --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock $(LOCK)

clean:  ## remove what make made, and leave the data
	rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*

install: $(RUN)
install-dev: $(DEV)

.venv/bin/python:
	rm -rf .venv
	$(UV) venv --quiet --python "$(PYTHON)" .venv

$(RUN): requirements.lock pyproject.toml | .venv/bin/python
	$(UV) pip install --require-hashes -r requirements.lock
	$(UV) pip install --quiet --offline --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock pyproject.toml | .venv/bin/python
	$(UV) pip install --require-hashes -r requirements-dev.lock
	$(UV) pip install --quiet --offline --no-deps --no-build-isolation -e .
	@touch $@ $(RUN)
