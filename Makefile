# The two commands: make demo, make test. Everything they need is installed into .venv by themselves.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-nightly check bench coverage-of-features clean

help:                           ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 24

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Lightkeeper needs Python 3.11 or newer; try: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ctao,cwl,ctapipe,parquet,s3,sign,xrootd,dev]'
	$(BIN)/python -m lightkeeper_ctao.warm_up
	touch $@

demo: $(READY)                  ## a night from folder to report, in two minutes
	$(BIN)/lightkeeper demo $(ARGS)

test: $(READY)                  ## every test a change must pass
	$(BIN)/python -m pytest -m 'not nightly' -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-nightly: $(READY)          ## the slower ones: power loss, long crash matrices
	$(BIN)/python -m pytest -m nightly --timeout 3600 $(ARGS)

check: $(READY)                 ## style, types, imports
	$(BIN)/ruff check src tests bench docs
	$(BIN)/ruff format --check src tests bench docs
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(READY)                 ## every benchmark, small
	$(BIN)/python -m bench $(ARGS)

bench-%: $(READY)               ## one benchmark: make bench-register SCALE=small|full PEER=rucio JSON=FILE
	$(BIN)/python -m bench $* --scale $(or $(SCALE),small) $(if $(PEER),--peer $(PEER)) $(if $(JSON),--json $(JSON))

coverage-of-features: $(READY)  ## which rows of the acceptance list have tests
	$(BIN)/python -m tests.features

clean:                          ## remove what make made
	rm -rf $(VENV) demo-home
