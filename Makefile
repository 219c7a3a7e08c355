# Every target sets up what it needs. Start with `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin

# Tests without a server or an emulator: the decisions of the server and of the command line.
UNIT_TESTS := tests/domain tests/test_language.py tests/test_pins.py \
	$(addprefix tests/safe_deploy/test_,ci.py options.py sanitization.py swap_planner.py)

.PHONY: help setup demo demo-unguarded demo-side-by-side demo-rollout run check test test-faults test-long test-platform-long coverage simulate fuzz bench test-functions lint format lock audit ci clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 28

setup: .venv/.ready node_modules/.ready ## Prepare .venv and the storage emulator

.venv/.ready: requirements-dev.txt dev/setup
	@dev/setup python
	@touch $@

.venv-pulumi/.ready: infra/pulumi/requirements.txt dev/setup
	@dev/setup pulumi
	@touch $@

node_modules/.ready: package.json package-lock.json dev/setup
	@dev/setup emulator
	@touch $@

demo: setup ## Deploy the sample app with the guard: no order fails
	@dev/foreground $(BIN)/python -m dev.demo

demo-unguarded: setup ## Deploy it without the guard too, and compare the numbers
	@dev/foreground $(BIN)/python -m dev.demo --unguarded

demo-side-by-side: setup ## Deploy three releases side by side, with Envoy in front: no order fails
	@dev/foreground $(BIN)/python -m dev.demo_side_by_side

demo-rollout: setup ## Roll out a bad version, which is stopped, and a good one, which gets through; three minutes
	@dev/foreground $(BIN)/python -m dev.demo_rollout

run: setup ## Serve on http://127.0.0.1:7071 until Ctrl-C, on the emulator
	@STATE_STORAGE="$${STATE_STORAGE:-UseDevelopmentStorage=true}" $(BIN)/python -m state_api serve

check: setup lint ## Check style, types, layers and language, and run the unit tests: under a minute
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal $(UNIT_TESTS)

# Coverage adds half of the time, so every run measures only the domain, which must be covered completely.
# The first command unpacks the real programs before several processes ask for them. The last one reports skipped tests.
test: setup .venv-pulumi/.ready ## Run all tests but the long ones; those on the real programs where these are found
	@$(BIN)/python -m harness.platform_programs 2>/dev/null
	@$(BIN)/python -m pytest tests/domain -q -n 3 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=100
	@$(BIN)/python -m pytest -n 3 --dist worksteal --ignore=tests/domain -m 'not long and not fault'
	@$(BIN)/python -m harness.platform_programs

# The overload test runs alone, because it needs the whole machine. FAULT_SHARE=0.1 runs a tenth of the tests.
test-faults: setup ## Run the fault tests: killed and paused processes, failing storage, crashes, wrong clocks, overload
	@$(BIN)/python -m pytest tests/faults -m fault -n 3 --dist worksteal --ignore=tests/faults/test_overload.py
	@$(BIN)/python -m pytest tests/faults/test_overload.py -m fault

test-long: setup ## Run the long tests: more deployments, kills and pipelines
	@$(BIN)/python -m pytest -n 2 --dist worksteal --ignore=tests/platform -m 'long and not fault'

test-platform-long: setup ## Run the long tests on the real programs: 20 minutes of random histories, 12 of dying workers
	@$(BIN)/python -m harness.platform_programs --required
	@$(BIN)/python -m pytest -n 3 --dist worksteal tests/platform -m long

fuzz: setup ## Generate thousands of events, deliveries and requests for about ten minutes
	@$(BIN)/python -m pytest --hypothesis-profile=fuzz -n 2 --dist worksteal tests/fuzz tests/server/test_schema.py tests/storage/test_recorded_histories.py

coverage: setup ## Run the tests with coverage of all of the server
	@$(BIN)/python -m pytest -n 3 --dist worksteal --ignore=tests/platform -m 'not fault' --cov=state_api --cov-report=term:skip-covered --cov-fail-under=90

simulate: setup ## Compare verdicts with HISTORIES (2000) simulated histories, from SEED (1) on
	@$(BIN)/python -m tests.simulator --histories "$${HISTORIES:-2000}" --seed "$${SEED:-1}"

bench: setup ## Measure throughput, latency, memory and cold start, as ratios to a baseline on this machine
	@$(BIN)/python -m bench

test-functions: setup ## Run the tests of both Function Apps in PYTHON (default python3.13) with its own azure-functions line
	@dev/test-functions "$${PYTHON:-python3.13}"

# The packages of the Pulumi program are in an environment of its own, so mypy checks it separately.
lint: setup .venv-pulumi/.ready ## Check style, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --python-executable .venv-pulumi/bin/python infra/pulumi tests/infra/mocked_pulumi.py
	@$(BIN)/lint-imports

format: setup ## Fix the style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: setup ## Write the lock files from pyproject.toml (UPGRADE=1: with the newest versions); needs the network
	@dev/lock $(if $(UPGRADE),--upgrade)

audit: setup ## Check pins and lock files, and look up known vulnerabilities; needs the network
	@dev/audit

ci: lint test ## What continuous integration runs

clean: ## Remove what setup, tests and runs create
	rm -rf .venv .venv-functions .venv-audit .venv-pulumi node_modules .azurite .platform .platform.lock .coverage .hypothesis .mypy_cache .ruff_cache dist build
