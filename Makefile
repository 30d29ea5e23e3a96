# Two commands do everything: `make demo` and `make test`. Both create the environment themselves.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS := constraints-$(VERSION).txt
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(VERSION)

.PHONY: install demo test test-slow lint bench clean

install: $(STAMP)

$(STAMP): pyproject.toml $(wildcard $(CONSTRAINTS))
	@test -f $(CONSTRAINTS) || { \
	  echo "histomix is pinned for Python 3.11 to 3.14, and '$(PYTHON)' is $(if $(VERSION),Python $(VERSION),no Python that runs);" \
	    "name one with: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@# An environment of another Python is no place to install into.
	@$(BIN)/python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(VERSION)")' 2>/dev/null || rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	@touch $(STAMP)

demo: install
	$(BIN)/histomix demo --out demo-out

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/mypy

bench: install
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done

clean:
	rm -rf $(VENV) demo-out
