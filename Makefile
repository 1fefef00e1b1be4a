# Everything a person or CI runs.  `make help` lists it.
# The virtual environment is made from any Python ≥ 3.11 and the locks alone: no caches, no configuration of git or
# pip, nothing else installed.

VENV := .venv
BIN := $(VENV)/bin
# Tests start hundreds of programs: where nothing compiled is kept, each compiles all of coord (1.2 s of CPU, else 0.6).
unexport PYTHONDONTWRITEBYTECODE
ROUNDS ?= 20
# Where bench-page leaves the reports it writes the page from.
RESULTS ?= .coord/bench
# What runs on uvloop and in asyncio's debug mode too, not only on the plain loop.
LOOPS := tests/contract/test_patched_client.py tests/contract/test_tls.py tests/contract/test_pinned_pull.py \
	tests/integration/test_projector.py tests/integration/test_publisher.py tests/integration/test_subscriber.py \
	tests/integration/test_rpc.py tests/unit/test_support_loops.py
# Four for two cores: with three a fifth of the time was idle in the half of the suite that kills and waits.
WORKERS ?= 4
# Who has run out takes tests from the others: the longest are a dozen seconds.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# For the locks: what one machine's settings say must not get into them.
UV := env -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS $(BIN)/uv --no-config
LOCK := $(UV) pip compile pyproject.toml --universal --generate-hashes --python-version 3.11 --group build \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo dev test lint unit soak faults bench bench-peers bench-tasks-peers bench-soak bench-budget bench-page lock

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

demo: $(VENV)/.installed ## a fleet reviews a source tree, the answers come out of TimescaleDB (ARGS="--path DIR")
	@$(BIN)/coord demo $(ARGS)

dev: $(VENV)/.installed ## the same servers and service left running, with a banner (ARGS="--ephemeral …")
	@$(BIN)/coord dev $(ARGS)

# The linters run beside the first tests, which wait as much as they compute; what they find is printed when they end,
# and again at the end.
# All tests are compiled first: else each worker does it, 15 s of CPU each in a fresh checkout.
# One run for all loops: another one is other workers, other servers and another wait for the last test.
test: $(VENV)/.installed-test ## everything: style, types, and all tests with real servers; what waits and reconnects on three loops
	@{ $(MAKE) --no-print-directory lint >$(VENV)/.linted 2>&1 || { cat $(VENV)/.linted; false; }; } & linters=$$!; \
		$(BIN)/python -m pytest --collect-only -qq -p tests.support.compiled >$(VENV)/.collected 2>&1; \
		COORD_TEST_ALL_LOOPS="$(LOOPS)" $(PYTEST) $(ARGS); failed=$$?; \
		wait $$linters || { failed=$$?; cat $(VENV)/.linted; }; exit $$failed

lint: $(VENV)/.installed-test ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

unit: $(VENV)/.installed-test ## the unit, property and tidy tests alone
	$(PYTEST) tests/unit tests/property tests/tidy $(ARGS)

soak: $(VENV)/.installed-test ## volume faults, half an hour, into docs/fault-ledger.md (SOAK_ONLY=kill-storm SOAK_ROUNDS= SOAK_FACTS= SEED=)
	$(BIN)/python -m tests.soak $(SOAK_ONLY) $(if $(SEED),--seed $(SEED)) $(if $(SOAK_ROUNDS),--rounds $(SOAK_ROUNDS)) \
		$(if $(SOAK_FACTS),--facts $(SOAK_FACTS)) $(ARGS)

faults: $(VENV)/.installed-test ## the fault tests, ROUNDS=20 times as many rounds; appends to soak-ledger.jsonl
	COORD_SOAK_ROUNDS=$(ROUNDS) COORD_SOAK_LEDGER=soak-ledger.jsonl \
		$(PYTEST) -m soak --timeout 0 $(ARGS)

bench: $(VENV)/.installed-test ## the spine's speed, on servers of its own (ARGS="-o json")
	@$(BIN)/coord bench spine $(ARGS)

bench-peers: $(VENV)/.installed-test ## the projector beside FastStream and nats-sinks
	@$(BIN)/coord bench peers $(ARGS)

bench-tasks-peers: $(VENV)/.installed-bench ## tasks and workflows beside five other systems (ARGS="--side dbos")
	@$(BIN)/coord bench tasks-peers $(ARGS)

bench-soak: $(VENV)/.installed-test ## ten million facts, memory and exactly once (ARGS="--facts 1000000")
	@$(BIN)/coord bench soak $(ARGS)

bench-budget: $(VENV)/.installed-test ## counts for one fact against their bounds (ARGS=--write renews them)
	@$(BIN)/coord bench budget $(ARGS)

bench-page: $(VENV)/.installed-bench ## all of them on a quiet machine: docs/benchmarks.md and the baseline, half an hour
	mkdir -p $(RESULTS)
	$(BIN)/coord bench spine -o json > $(RESULTS)/spine.json
	$(BIN)/coord bench peers -o json > $(RESULTS)/peers.json
	$(BIN)/coord bench soak -o json > $(RESULTS)/soak.json
	$(BIN)/coord bench tasks-peers -o json > $(RESULTS)/tasks-peers.json
	$(BIN)/coord bench store -o json > $(RESULTS)/store.json
	$(BIN)/coord bench queries -o json > $(RESULTS)/queries.json || test $$? -eq 3
	for bench in spine peers soak tasks-peers store queries; do $(BIN)/coord bench report $(RESULTS)/$$bench.json || exit 1; done
	$(BIN)/coord bench keep $(RESULTS)/spine.json $(RESULTS)/peers.json $(RESULTS)/soak.json $(RESULTS)/tasks-peers.json

lock: $(VENV)/.installed ## resolve the dependencies anew (ARGS=--upgrade for newer versions)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet 'uv>=0.8'
	$(LOCK) --extra dev-servers --extra nkeys $(ARGS) -o requirements.lock
	$(LOCK) --extra dev-servers --extra nkeys --extra archive --extra test -c requirements.lock $(ARGS) -o requirements-test.lock
	$(LOCK) --all-extras -c requirements-test.lock $(ARGS) -o requirements-bench.lock

# --- the virtual environment, made again only when a lock or pyproject.toml changes ---

$(VENV)/.installed: requirements.lock pyproject.toml tools/venv.sh
	@tools/venv.sh requirements.lock
	@touch $@

$(VENV)/.installed-test: requirements-test.lock $(VENV)/.installed
	@tools/venv.sh requirements-test.lock
	@touch $@

# What one bench alone needs, 400 MiB of it.  Without Restate's server (no npm, another platform) it skips that side.
$(VENV)/.installed-bench: requirements-bench.lock tools/restate/package-lock.json $(VENV)/.installed-test
	@tools/venv.sh requirements-bench.lock
	@folder=$$($(BIN)/python -m tests.support.node tools/restate) && \
		ln -sf "$$folder/node_modules/@restatedev/restate-server-linux-x64/bin/restate-server" $(BIN)/ || \
		echo "Restate's server could not be installed: coord bench tasks-peers skips it" >&2
	@touch $@
