# Two commands for everybody: `make demo` and `make test`. They need Python >= 3.11 (with venv), make and nothing else.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: help demo test test-matrix check bench proof prices clean
help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python >= 3.11 with venv is needed (on Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch .venv/ready

demo: .venv/ready  ## forty agents, five users, one budget: the main job on the embedded store
	@$(BIN)/budget demo

test: .venv/ready  ## every test of the main environment
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

ONLY ?=
test-matrix: .venv/ready  ## SDK generations and agent frameworks, each in an environment of its own (ONLY="dspy crewai")
	@$(BIN)/python -m tests.matrix $(ONLY)

check: .venv/ready  ## ruff, mypy --strict, import floors, compiled prices
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m budget.prices.files prices budget/prices/prices.json --check

bench: .venv/ready  ## speed beside a floor measured in the same run
	@$(BIN)/python -m benchmarks

MINUTES ?= 10
proof: .venv/ready  ## faults, kills and simulated worlds for MINUTES=10, and a dated record of them
	@$(BIN)/python -m tests.proof run --minutes $(MINUTES) --out tests/proof/RECORD.md

prices: .venv/ready  ## compile prices/*.toml into the package
	$(BIN)/python -m budget.prices.files prices budget/prices/prices.json

clean:  ## remove what the other commands made
	rm -rf .venv .venvs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
