# Everything needs only Python 3.11 or later with pip and venv.
#
#   make test PYTHON=python3.13     another interpreter, in its own environment
#   make test DEPS=lowest           the lowest versions that are supported
#   make test ARGS="-k pool -x"     arguments for what is run

PYTHON ?= python3
DEPS ?=
ARGS ?=

interpreter := $(filter-out python3,$(notdir $(PYTHON)))
VENV := .venv$(addprefix -,$(interpreter))$(addprefix -,$(DEPS))
BIN := $(VENV)/bin
READY := $(VENV)/.ready
constraint := $(if $(DEPS),--constraint constraints/$(DEPS).txt)

.PHONY: help demo test check bench pgbouncer clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## Run the demo service with a PostgreSQL of its own (ARGS=--smoke: once through)
	cd examples && ../$(BIN)/python -m studio $(ARGS)

test: $(READY) ## Run the tests
	$(BIN)/python -m pytest --numprocesses=auto $(ARGS)

check: $(READY) ## Look for mistakes without running anything
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(READY) ## Measure every question in bench/
	@for name in overhead offload log_call jobs database; do \
		echo "== bench/$$name.py"; $(BIN)/python -m bench.$$name || exit 1; done

pgbouncer: .pgbouncer/usr/sbin/pgbouncer ## Fetch Debian's PgBouncer for its tests, without root

# Only unpacked, never installed: no service is started.
.pgbouncer/usr/sbin/pgbouncer:
	mkdir -p .pgbouncer
	cd .pgbouncer && apt-get download pgbouncer libevent-2.1-7 libc-ares2
	for package in .pgbouncer/*.deb; do dpkg -x $$package .pgbouncer; done
	rm .pgbouncer/*.deb

clean: ## Remove environments, caches and the development database
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .clearway .pgbouncer build dist examples/studio/inputs
	find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

# pip knows dependency groups since 25.1; Debian's is older.
$(READY): pyproject.toml $(wildcard constraints/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(constraint) \
		--editable ".[dev,all]" --group studio --group test --group bench --group check
	@touch $@
