# Every target sets up what it needs. Start with `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin

# With these `make test` would take too long for continuous integration.
BY_THEMSELVES := tests/pipelines tests/safe_deploy/test_commands.py tests/safe_deploy/test_promotion.py \
	tests/safe_deploy/test_killed.py

.PHONY: help setup demo run test test-pipelines simulate test-functions lint format ci clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: .venv/.ready node_modules/.ready ## Prepare .venv and the storage emulator

.venv/.ready: requirements.txt requirements-serve.txt requirements-scheduler.txt requirements-dev.txt dev/setup
	@dev/setup python
	@touch $@

node_modules/.ready: package.json package-lock.json dev/setup
	@dev/setup emulator
	@touch $@

demo: setup ## Show the main job: three versions, one refused until its slot has drained
	@$(BIN)/python -m dev.demo

run: setup ## Serve on http://127.0.0.1:7071 until Ctrl-C, on the emulator
	@STATE_STORAGE="$${STATE_STORAGE:-UseDevelopmentStorage=true}" $(BIN)/python -m state_api serve

test: setup ## Run the tests, with coverage
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(BY_THEMSELVES:%=--ignore=%) --cov --cov-report=term:skip-covered --cov-fail-under=90
	@$(BIN)/coverage report --include='state_api/domain/*' --fail-under=100

simulate: setup ## Judge HISTORIES (default 2000) random histories of the platform, from SEED (default 1) on
	@$(BIN)/python -m tests.simulator --histories "$${HISTORIES:-2000}" --seed "$${SEED:-1}"

test-pipelines: setup ## Run the tests of whole pipelines and of the command line as a process, which take minutes
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(BY_THEMSELVES)

test-functions: setup ## Run the tests of function_app.py in PYTHON (default python3.13) with its own azure-functions line
	@dev/test-functions "$${PYTHON:-python3.13}"

lint: setup ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Mend the style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

ci: lint test ## What continuous integration runs

clean: ## Remove what setup, tests and runs have made
	rm -rf .venv .venv-functions node_modules .azurite .coverage .hypothesis .mypy_cache .ruff_cache
