# One verb for each job. `make demo` and `make test` set everything up by themselves.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
RUN := .venv/bin

.PHONY: help setup demo test test-full lint format conformance bench docs lock clean sdk-java sdk-c sdk-r sdk-perl

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with .venv/bin/trackmate in it, from the lock file
	@PYTHON=$(PYTHON) scripts/setup.sh

demo: setup ## Start everything on this machine with a simulated fab; Ctrl-C stops it (ONCE=1: print and stop)
	@$(RUN)/trackmate demo $(if $(ONCE),--once)

test: setup lint ## Run all checks and the tests, with coverage
	@scripts/test.sh

test-full: setup lint ## The same with the long campaigns: a million events under kills, corruption, races
	@scripts/test.sh --full

lint: setup ## Check style, types and the direction of imports
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/lint-imports
	@$(RUN)/mypy

format: setup ## Format the code
	@$(RUN)/ruff check --fix-only .
	@$(RUN)/ruff format .

conformance: setup ## Run the conformance suite in every language and write its matrix into the docs
	@$(RUN)/python -m pytest sdk/conformance -n 4 --conformance-matrix \
		--deselect sdk/conformance/test_cases.py::test_matrix_of_the_docs_is_of_another_suite

sdk-c: ## Build and test the C SDK, and pack it into build/sdk/; as root it installs what that needs
	@scripts/sdk-c.sh

sdk-java: ## Build the Java SDK (jar, sources, javadoc, TCK) into build/sdk/java; needs a JDK 17 and Maven
	@scripts/sdk-java.sh

sdk-r: ## Build the R SDK's source package into build/sdk/r; needs R and a C compiler
	@scripts/sdk-r.sh

sdk-perl: ## Build the Perl SDK's archive into build/sdk/; as root it installs what that needs
	@scripts/sdk-perl.sh

bench: setup ## Run the benchmarks against their peers; prints JSON
	@scripts/bench.sh

docs: setup ## Write the generated reference pages anew
	@$(RUN)/python scripts/reference.py

lock: setup ## Resolve the dependencies anew into requirements.lock
	@scripts/lock.sh

clean: ## Remove what was built and the demo's data
	@rm -rf .venv .tools build dist trackmate-data .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* htmlcov
