# Two commands do everything: `make demo` and `make test`. Both create the environment themselves.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS := constraints-$(VERSION).txt
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(VERSION)

# Where Python may keep nothing that it compiled, every process compiles torch and pandas anew: seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test test-slow torture kills lint bench clients heads clean

install: $(STAMP)

$(STAMP): pyproject.toml $(wildcard $(CONSTRAINTS))
	@test -f $(CONSTRAINTS) || { \
	  echo "histomix is pinned for Python 3.11 to 3.14, and '$(PYTHON)' is $(if $(VERSION),Python $(VERSION),no Python that runs);" \
	    "name one with: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@# An environment of another Python is no place to install into.
	@$(BIN)/python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(VERSION)")' 2>/dev/null || rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@# Compiling all of torch ahead takes longer than what is used of it takes later.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c $(CONSTRAINTS) -e ".[dev]"
	@touch $(STAMP)

demo: install
	$(BIN)/histomix demo --out demo-out

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Thousands of damaged and hostile inputs, each in a process of its own (half an hour on two cores).
torture: install
	$(BIN)/python -m tests.torture --jobs 2

test-slow: install
	$(BIN)/python -m pytest -m slow

# Kills commands at fifty random moments, gives them again, and prints what had to be done twice.
kills: install
	$(BIN)/python -m tests.kills

lint: install
	$(BIN)/ruff check src tests scripts benchmarks docs
	$(BIN)/ruff format --check src tests scripts benchmarks docs
	$(BIN)/mypy

bench: install
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done

# The programs that read our files, in an environment of their own; writes the table of docs/clients.md.
CLIENTS := .venv-clients

$(CLIENTS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(CLIENTS)/bin/python -m pip install --quiet -e ".[st,zoo]" --group clients
	@touch $@

clients: $(CLIENTS)/.installed
	$(CLIENTS)/bin/python scripts/clients.py --write

# Heads that may be handed on, built from the phantom and the data of HISTOMIX_DATA, into dist/heads/.
heads: install
	$(BIN)/python scripts/heads.py

clean:
	rm -rf $(VENV) $(CLIENTS) demo-out $(TOOLS) $(DOCS) dist bundle docs/api

# Releases, and copies for sites without a network. Their tools have an environment of their own.
.PHONY: release packages audit bundle
TOOLS := .venv-release
EXTRAS ?=

$(TOOLS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(TOOLS)/bin/python -m pip install --quiet --group release
	@touch $@

release: $(TOOLS)/.installed
	$(TOOLS)/bin/python scripts/release.py

packages: $(TOOLS)/.installed
	$(TOOLS)/bin/python scripts/release.py --build-only

audit: install $(TOOLS)/.installed
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(BIN)/python scripts/audit.py

# EXTRAS=st,zoo brings extras along; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu leaves CUDA out.
bundle: install
	$(BIN)/python scripts/bundle.py --extras "$(EXTRAS)"

# The site of the documentation. Its tools stand in an environment of their own, which sees histomix and its libraries in
# $(VENV); the site is built without a network.
.PHONY: docs docs-test
DOCS := .venv-docs

$(DOCS)/.installed: pyproject.toml docs/website/constraints.txt $(STAMP)
	$(BIN)/python -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c docs/website/constraints.txt --group docs
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(DOCS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/histomix-libraries.pth
	@touch $@

docs: $(DOCS)/.installed
	rm -rf dist/docs
	$(DOCS)/bin/python -m sphinx -q -W --keep-going -d dist/docs-work docs dist/docs
	$(DOCS)/bin/python docs/website/check.py dist/docs
	@echo dist/docs/index.html

# Every command and program of the pages, those that take longer too.
docs-test: install
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_docs.py
