# Every target sets up .venv in this checkout if needed, and can be repeated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests of one file stay in one process: they share what is dear to make.
# In their order: the many small files at the end keep both processes busy.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-all check format bench clean

help:
	@echo "make demo    train, encrypt, predict on a server process, verify, catch dishonest servers"
	@echo "make test    all tests but the slow ones"
	@echo "make check   lint, formatting, types of packages, tests and benchmarks; the Dockerfile"
	@echo "make bench   benchmarks of primitives, of a layer, and of the evaluators"
	@echo "make test-all, make format, make clean"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@touch $@

setup: $(INSTALLED)

demo: setup
	$(BIN)/securedl demo

test: setup
	$(BIN)/python -m pytest -q -m "not slow" $(WORKERS)

test-all: setup
	$(BIN)/python -m pytest -q $(WORKERS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/unit/surface_types.py
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/hadolint deploy/Dockerfile

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m pytest -q bench --benchmark-enable --benchmark-only -o python_files="bench_*.py" --benchmark-columns=median,iqr,rounds
	$(BIN)/python -m bench.evaluators --quick

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
