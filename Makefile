# make demo    two small applications' tests on every storage, real Redis and PostgreSQL included
# make test    this project's own tests
# make contract  the contract suite on all storages, and on broken adapters: two tables
# make check   lint, format and types
# make fuzz    the differential test, 20,000 random steps on each storage (STEPS=…)
# make faults  storages under fault: 100 kills, restarts, 100,000 calls on each (a sample of it is in make test)
# make bench   what the kit costs, beside its targets and peers: a table (ARGS=--quick)
# make mutants each small change to the clock, the codec and the rules of arguments: is there a test that sees it?
# make tree    write the tree in CONTRIBUTING.md anew
# make lowest  install the oldest versions that pyproject.toml promises, for make test
#
# Each sets up what it needs first, in .venv, from Python 3.11 or newer and nothing else.
# Variables: PYTHON (python3), ARGS (more arguments for pytest),
#            STORAGES (what tests and fuzz run on: default; all, which needs MySQL and Valkey too; or names),
#            TASKIQ_FLOW_TEST_SERVERS (where real servers may come from: url,docker,local,wheel).

PYTHON ?= python3
ARGS ?=
STORAGES ?= default
STEPS ?= 20000
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
READY := $(VENV)/.ready
SOURCES := taskiq_flow tests examples benchmarks conftest.py

# Tests start Python hundreds of times; without its caches each of them compiles the whole package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test contract fuzz faults bench lowest mutants tree check format clean

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

demo: $(READY)
	$(BIN)/python -m pytest -c examples/orders/pytest.ini --rootdir examples/orders examples/orders -p no:randomly --storage-require=all $(ARGS)
	$(BIN)/python -m pytest -c examples/shop_api/pytest.ini --rootdir examples/shop_api examples/shop_api -p no:randomly --storage-require=all $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n 3 --storage-backends=$(STORAGES) --storage-require=all $(ARGS)

contract: $(READY)
	$(BIN)/python -m tests.contract.storages $(ARGS)
	$(BIN)/python -m tests.contract.table

fuzz: $(READY)
	FLOW_FUZZ_STEPS=$(STEPS) $(BIN)/python -m pytest tests/fuzz -n 2 -m "long or not long" --storage-backends=$(STORAGES) --storage-require=all $(ARGS)

faults: $(READY)
	$(BIN)/python -m pytest tests/faults -m long --timeout 3600 -rs $(ARGS)

bench: $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks.harness $(ARGS)

tree: $(READY)
	$(BIN)/python -m tests.tree

mutants: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group mutants
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

check: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy taskiq_flow tests benchmarks conftest.py
	$(BIN)/pyright
	@# Each example is a project of its own, with its own conftest.
	@for example in examples/*/; do echo "mypy $$example"; MYPYPATH=$$example $(BIN)/mypy $$example || exit 1; done

format: $(READY)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11: say which to use, as in 'make PYTHON=python3.12 …'" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) 2>/dev/null || $(PYTHON) -m virtualenv -q --clear $(VENV) 2>/dev/null \
		|| { echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev --editable .
	@touch $(READY)

# The peers are plugins of pytest: in an environment of their own, where no test of this project meets them.
$(BENCH)/.ready: pyproject.toml
	@$(PYTHON) -m venv --clear $(BENCH)
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --group dev --group bench --editable .
	@touch $(BENCH)/.ready

# What pyproject.toml promises of the oldest versions: `make lowest`, then `make test`.
lowest: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --reinstall --resolution lowest-direct \
		--group dev --editable '.[redis,postgres,mysql,pytest]'

clean:
	rm -rf $(VENV) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist mutants
