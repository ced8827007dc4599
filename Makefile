# `make` lists what there is. The laptop and CI run the same commands.
PYTHON ?= python3
VENV := .venv/bin
# make run and make test set up first; a warm set-up says nothing.
SETUP := STREAMS_LOCAL_QUIET_SETUP=1 $(PYTHON) -m deploy.local.setup

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## everything that is needed: environments, jars, and from apt what is missing
	@$(PYTHON) -m deploy.local.setup

.PHONY: ready
ready:
	@$(SETUP)

.PHONY: run
run: ready ## set up, run the whole platform in the foreground, show it live; Ctrl-C stops everything
	@exec $(VENV)/python -m deploy.local up

.PHONY: down
down: ## stop the platform from elsewhere
	@if [ -x $(VENV)/python ]; then exec $(VENV)/python -m deploy.local down; else echo "nothing is set up, so nothing runs"; fi

.PHONY: reset
reset: ## stop, and remove the data (topics, schemas, tables, checkpoints, logs)
	@if [ -x $(VENV)/python ]; then exec $(VENV)/python -m deploy.local reset; else echo "nothing is set up, so there is nothing to remove"; fi

.PHONY: status
status: ## what runs
	@if [ -x $(VENV)/python ]; then $(VENV)/python -m deploy.local status || true; else echo "nothing is set up, so nothing runs"; fi

.PHONY: logs
logs: ## follow the logs of every process
	@exec tail -n 20 -F .run/log/*.log

.PHONY: test
test: ready ## all tests
	@exec $(VENV)/python -m pytest

.PHONY: test-unit
test-unit: ready ## tests of single parts
	@exec $(VENV)/python -m pytest tests/unit

.PHONY: test-property
test-property: ready ## properties over generated input
	@exec $(VENV)/python -m pytest tests/property

.PHONY: test-integration
test-integration: ready ## tests against a real Kafka and schema registry, which they start
	@exec $(VENV)/python -m pytest tests/integration

.PHONY: test-e2e
test-e2e: ready ## the whole platform, from event to closed window
	@exec $(VENV)/python -m pytest tests/e2e

.PHONY: lint
lint: ready ## style, types, import rules
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/lint-imports

.PHONY: format
format: ready ## put the code into the one format
	@$(VENV)/ruff check --fix --quiet . || true
	@$(VENV)/ruff format .

.PHONY: schemas
schemas: ready ## make the .avsc files from the classes in streams/schemas/models.py
	@exec $(VENV)/python -m streams.schemas.models

.PHONY: proto
proto: ready ## make the Protobuf module from streams/schemas/event.proto
	@exec $(VENV)/uv tool run --system-certs --from grpcio-tools==1.85.1 python -m grpc_tools.protoc \
	    -I. --python_out=. --pyi_out=. streams/schemas/event.proto

.PHONY: lock
lock: ready ## make the locks of requirements and jars anew from what is pinned by hand
	@exec $(VENV)/python -m deploy.local.lock

.PHONY: bench
bench: ready ## what the gateway costs beside its yardsticks, in twelve minutes; OPTIONS='--only single --runs 3', OPTIONS=--help
	@exec $(VENV)/python -m deploy.local.bench_gateway $(OPTIONS)

.PHONY: bench-start
bench-start: ready ## how long a warm start takes on fresh data, and how much memory
	@exec $(VENV)/python -m deploy.local.bench_start

.PHONY: bench-agents
bench-agents: ready ## what the agents cost beside their yardsticks; OPTIONS='--only ingest --runs 3', OPTIONS=--help
	@exec $(VENV)/python -m deploy.local.bench_agents $(OPTIONS)

.PHONY: chaos-agents
chaos-agents: ready ## 300,000 events through workers that are killed, frozen and fenced: each once; in four minutes. OPTIONS=--help
	@exec $(VENV)/python -m tests.chaos $(OPTIONS)
