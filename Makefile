# Every command a user or CI needs. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MINUTES ?= 10
SEED ?= 7

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-llm up down test test-slow storm test-all lint types schemas bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

venv: $(STAMP) ## Make the environment .venv with pinned packages

$(STAMP): pyproject.toml deploy/constraints/core.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Stillhouse needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Set PYTHON=/path/to/python3.11.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint deploy/constraints/core.txt --editable '.[train,embedded,dev]'
	@touch $@

demo: $(STAMP) ## Play the whole loop on a generated sample: 5 minutes on 2 cores, 10 where the first kind of student fails
	$(BIN)/stillhouse demo

demo-llm: $(STAMP) ## Teach a small language model and let vLLM serve it: [DATA=FILE of input and output]
	$(BIN)/stillhouse demo-llm $(if $(DATA),--data $(DATA))

up: $(STAMP) ## Start the embedded broker, Redis and the five services
	$(BIN)/stillhouse up

down: $(STAMP) ## Stop them
	$(BIN)/stillhouse down

test: $(STAMP) lint types ## Lint, types, import contracts and every test that takes under a minute
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: $(STAMP) ## Only the tests that take longer
	$(BIN)/python -m pytest -m slow

storm: $(STAMP) ## Random faults under load: make storm MINUTES=10 SEED=7
	$(BIN)/python -m tests.faults.storm --minutes $(MINUTES) --seed $(SEED)

test-all: test test-slow ## Everything

lint: $(STAMP) ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

schemas: $(STAMP) ## Write the JSON Schemas and the AsyncAPI document anew
	$(BIN)/python -m stillhouse.bus.asyncapi

bench: $(STAMP) ## Benchmarks: the short ones, or NAME=... [QUICK=1] [DATA=FILE OUT=FILE] [REPORT=FILE]
	$(BIN)/python -m tests.benchmarks $(NAME) $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA)) $(if $(OUT),--out $(OUT)) \
		$(if $(REPORT),--report $(REPORT))

clean: ## Remove the environment and everything the platform wrote
	rm -rf $(VENV) .stillhouse .mypy_cache .ruff_cache .pytest_cache .hypothesis
