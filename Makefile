# Commands. Each makes what it needs, .venv included, out of nothing but Python.

SHELL := bash
.DEFAULT_GOAL := help
# Images often set it. Then each of the thirty processes of a demo compiles torch and Ray again, which doubles its time.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter here that gatefold runs on; make PYTHON=/path/to/python names another.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c '$(FITS)' 2> /dev/null && echo $$p && break; done)
INSTALLED := .venv/.installed

help: ## say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name what; do \
		printf '  make %-10s %s\n' "$$name" "$$what"; done

demo: $(INSTALLED) ## synthesise a catalogue, train on it, and open the page; DEMO_ARGS= goes to gatefold demo
	.venv/bin/gatefold demo $(DEMO_ARGS)

serve: $(INSTALLED) ## serve the active release of the workspace; SERVE_ARGS= goes to gatefold serve
	.venv/bin/gatefold serve $(SERVE_ARGS)

test: $(INSTALLED) ## run the tests, which need Chromium for the page; ARGS= goes to pytest
	.venv/bin/pytest $(ARGS)

test-chaos: $(INSTALLED) ## kill what can be killed, spoil what can be spoilt, and all else that takes minutes; ARGS= goes to pytest
	.venv/bin/pytest -m 'chaos or kills' tests/chaos tests/integration $(ARGS)

check: $(INSTALLED) ## read the code: ruff, and mypy as strict as it gets
	.venv/bin/ruff check .
	.venv/bin/mypy

fix: $(INSTALLED) ## let ruff mend what it can
	.venv/bin/ruff check --fix .

bench: bench-decoding bench-extraction bench-scaling bench-retrieval ## measure the figures of the README, one after the other

bench-retrieval: .venv/.bench-retrieval
bench-%: .venv/.bench ## measure one of them, as in bench-extraction; BENCH_ARGS= goes to it
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 .venv/bin/python -m benchmarks.$* $(BENCH_ARGS)

clean: ## take away .venv and caches; workspaces stay
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find gatefold pipelines serve tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

.venv/.bench: $(INSTALLED)
	.venv/bin/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[cpu,eval,dev,bench]'
	@touch $@

# hnswlib has no wheel for every machine; then it needs a C++ compiler
.venv/.bench-retrieval: $(INSTALLED)
	.venv/bin/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[cpu,eval,dev,bench-retrieval]'
	@touch $@

$(INSTALLED): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "gatefold needs Python 3.11 or 3.12, and python3 is" \
		"$$(python3 --version 2>&1 || echo missing); install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(FITS)' || { \
		echo "gatefold needs Python 3.11 or 3.12, not $$($(PYTHON) --version)" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version), as requirements.lock says; the first time takes minutes"
	@$(PYTHON) -m venv .venv
	@set -o pipefail; .venv/bin/pip install --no-compile --disable-pip-version-check -c requirements.lock -e '.[cpu,eval,dev]' | \
		while read -r line; do case $$line in *MB\)|*GB\)|Installing*) echo "  $${line:0:110}";; esac; done
	@touch $@

.PHONY: help demo serve test test-chaos check fix bench clean
