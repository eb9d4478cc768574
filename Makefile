SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export UV_PYTHON_DOWNLOADS := never

UV = $$(command -v uv || echo .uv/bin/uv)
BIN := .venv/bin

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Check what the machine must have; build the environment from the lock
	@python=$$(.ci/prerequisites) && \
	if ! command -v uv >/dev/null && [ ! -x .uv/bin/uv ]; then \
	    echo "bringing uv into .uv/"; \
	    "$$python" -m venv .uv && .uv/bin/python -m pip install --quiet 'uv>=0.9'; \
	fi && \
	$(UV) sync --quiet --locked --inexact --python "$$python"

deep: setup ## Add TensorFlow, and Horovod built here against it, to the environment
	@command -v $${CXX:-g++} >/dev/null || { echo "missing: a C++17 compiler; get it: apt-get install g++" >&2; exit 1; }
	@$(UV) sync --locked --group deep

orchestrator: setup ## Build the environment of Airflow, .venv-orchestrator, from the same lock
	@UV_PROJECT_ENVIRONMENT=.venv-orchestrator $(UV) sync --quiet --locked \
	    --no-default-groups --group orchestrator --python "$$(.ci/prerequisites)"

airflow: orchestrator ## Airflow on this machine, with the flights DAGs ready to trigger
	@.ci/airflow

demo: setup ## Run the whole of pipeline flight_delays on real flights of 2013
	@$(BIN)/nightjar demo

test: setup orchestrator lint ## Lint, type-check, test in both environments; Horovod where it can be built
	@if command -v $${CXX:-g++} >/dev/null && command -v make >/dev/null; then $(MAKE) -s deep; else \
	    echo "no C++ compiler here: the tests of horovod_keras are skipped (apt-get install g++)"; fi
	$(BIN)/pytest
	.venv-orchestrator/bin/pytest tests/dags

lint: setup ## Style, types and borders
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dist: setup ## dist/nightjar.zip: what spark-submit ships to the executors
	@mkdir -p dist && $(MAKE) -s zip ZIP=$(CURDIR)/dist/nightjar.zip && echo dist/nightjar.zip

zip:
	@cd src && $(CURDIR)/$(BIN)/python -c "import pathlib, sys, zipfile; \
	    archive = zipfile.ZipFile(sys.argv[1], 'w'); \
	    files = [p for p in pathlib.Path('nightjar').rglob('*') if p.suffix in ('.py', '.yaml')]; \
	    [archive.write(p) for p in sorted(files)]" $(ZIP)

clean: ## Remove what the demo and the tests made; keeps the environment
	rm -rf warehouse dist .airflow .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup deep orchestrator airflow demo test lint dist zip clean
