# make demo    install everything into .venv and run the demo
# make test    install everything into .venv and run the quick tests
# make check   format, lint, types
# make slow    the slow tests
# make matrix  install, import and quick tests on every Python found (PYTHONS="..." to name them); the README's table
# make bench   the benchmark of the training step
# PYTHON=python3.10 make ...   with another Python (3.10 to 3.13)

VENV := .venv
BIN := $(VENV)/bin
# The first that runs: version managers leave launchers on the PATH for versions that are not selected.
PYTHON ?= $(shell for p in python3.11 python3.10 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: setup demo test check slow matrix bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "Expected Python 3.10 to 3.13 on the PATH, and found none. Use PYTHON=/path/to/python make ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,test]'
	@touch $@

demo: setup
	$(BIN)/keras-esq demo

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

slow: setup
	$(BIN)/python -m pytest -m slow

matrix: setup
	$(BIN)/python .ci/matrix.py $(PYTHONS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/train_step.py

clean:
	rm -rf $(VENV) .matrix build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
