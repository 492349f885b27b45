# From a fresh clone: `make run`, `make test`. Everything is installed into .venv, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# Where images set it, each command compiles the program anew (a third of a second).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check coverage bench bench-quality torture ui clean

run: $(INSTALLED)
	$(BIN)/junk-leads demo

test: $(INSTALLED) check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

coverage: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/bench.py $(if $(ROWS),--rows $(ROWS))

bench-quality: $(INSTALLED)
	$(BIN)/python benchmarks/bench_quality.py $(LEADS)

torture: $(INSTALLED)
	$(if $(TRIAL),,$(BIN)/python -m pytest -m long)
	$(BIN)/python benchmarks/torture.py $(TRIAL) $(if $(TIMES),--times $(TIMES))

ui: $(INSTALLED)
	$(BIN)/junk-leads ui

$(INSTALLED): pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -m venv .venv || ($(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet .venv)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
