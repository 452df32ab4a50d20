# make demo   restore scrambled handwritten digits with a learned latent permutation, half a minute
# make test   lint, types, tests
# make clean  remove the virtual environment and caches
#
# The first call makes .venv and installs the pinned versions of constraints.txt; later calls start at once.

PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: .venv/.experiments
	OMP_NUM_THREADS=2 $(BIN)/cvxsst demo

test: lint
	$(BIN)/pytest -n auto

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cvxsst needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv

# one stamp for each extra: .venv/.experiments installs cvxsst[experiments]
.venv/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$*]"
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
