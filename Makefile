# Every target sets up what it needs. Start with `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin

.PHONY: help setup demo demo-unguarded run test test-faults test-long test-platform-long coverage simulate fuzz bench test-functions lint format lock audit ci clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: .venv/.ready node_modules/.ready ## Prepare .venv and the storage emulator

.venv/.ready: requirements-dev.txt dev/setup
	@dev/setup python
	@touch $@

node_modules/.ready: package.json package-lock.json dev/setup
	@dev/setup emulator
	@touch $@

demo: setup ## Show the main job: a version is refused until the orders in its slot have ended, and none fails
	@$(BIN)/python -m dev.demo

demo-unguarded: setup ## Show the same without the guard, in both ways that it goes wrong, and the numbers side by side
	@$(BIN)/python -m dev.demo --unguarded

run: setup ## Serve on http://127.0.0.1:7071 until Ctrl-C, on the emulator
	@STATE_STORAGE="$${STATE_STORAGE:-UseDevelopmentStorage=true}" $(BIN)/python -m state_api serve

# Coverage takes half of the time again, so only the decisions are measured every time; all of them must be covered.
# The programs are unpacked before tests in several processes ask for them. What is left out is said last, to be seen.
test: setup ## Run the tests; those of the decisions with coverage, those on the real programs where these are found
	@$(BIN)/python -m tests.platform.programs 2>/dev/null
	@$(BIN)/python -m pytest tests/domain -q -n 3 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=100
	@$(BIN)/python -m pytest -n 3 --dist worksteal --ignore=tests/domain -m 'not long and not fault'
	@$(BIN)/python -m tests.platform.programs

# Overload by itself: it takes the whole machine. FAULT_SHARE=0.1 does a tenth.
test-faults: setup ## Run the fault tests: killed and paused processes, failing storage, crashes, wrong clocks, overload
	@$(BIN)/python -m pytest tests/faults -m fault -n 3 --dist worksteal --ignore=tests/faults/test_overload.py
	@$(BIN)/python -m pytest tests/faults/test_overload.py -m fault

test-long: setup ## Run the tests that take too long for every time: longer stories, more kills, more pipelines
	@$(BIN)/python -m pytest -n 2 --dist worksteal --ignore=tests/platform -m 'long and not fault'

test-platform-long: setup ## Run the long tests on the real programs: 20 minutes of random histories, 12 of dying workers
	@$(BIN)/python -m tests.platform.programs --required
	@$(BIN)/python -m pytest -n 3 --dist worksteal tests/platform -m long

fuzz: setup ## Try thousands of events, deliveries and requests for about ten minutes
	@$(BIN)/python -m pytest --hypothesis-profile=fuzz -n 2 --dist worksteal tests/fuzz tests/server/test_schema.py tests/storage/test_recorded_histories.py

coverage: setup ## Run the tests with coverage of all of the server
	@$(BIN)/python -m pytest -n 3 --dist worksteal --ignore=tests/platform -m 'not fault' --cov=state_api --cov-report=term:skip-covered --cov-fail-under=90

simulate: setup ## Judge HISTORIES (default 2000) random histories of the platform, from SEED (default 1) on
	@$(BIN)/python -m tests.simulator --histories "$${HISTORIES:-2000}" --seed "$${SEED:-1}"

bench: setup ## Measure: throughput, readiness, waiting, delay, memory, cold start, each against something on this machine
	@$(BIN)/python -m bench

test-functions: setup ## Run the tests of both Function Apps in PYTHON (default python3.13) with its own azure-functions line
	@dev/test-functions "$${PYTHON:-python3.13}"

lint: setup ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Mend the style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: setup ## Write the lock files anew from requirements*.in (UPGRADE=1: with the newest versions); needs the network
	@dev/lock $(if $(UPGRADE),--upgrade)

audit: setup ## Check that all is pinned, and look up known vulnerabilities of it; needs the network
	@dev/audit

ci: lint test ## What continuous integration runs

clean: ## Remove what setup, tests and runs have made
	rm -rf .venv .venv-functions .venv-audit node_modules .azurite .platform .platform.lock .coverage .hypothesis .mypy_cache .ruff_cache
