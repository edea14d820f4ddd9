# make demo        from a request to a shortlist, with a model of the package: discover/demo/report.html
# make test        lint, types and the quick tests; make test-coverage: the same tests have to cover 95 % of the code
# make test-slow   the tests that train, kill and start programs; make test-faults: those of minutes
# make docs        the site, into site/
# Each starts from nothing but python3 >= 3.11 with venv and pip.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: install test lint types pytest test-coverage test-slow test-faults demo docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; name one with make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: lint types pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# Each worker has a core: more threads in the linear algebra would wait for one another.
pytest test-coverage test-slow test-faults: export OMP_NUM_THREADS = 1

# A whole file goes to one worker, which shares its fixtures; files as collected, since the default,
# those with most tests first, leaves the long single tests to the end.
PARALLEL = --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

pytest: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)

test-coverage: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PARALLEL)

test-faults: $(INSTALLED)
	$(BIN)/python -m pytest -m faults

# First the networks that predict and relax, which are downloaded once: without them there is no demo.
demo: $(INSTALLED)
	$(BIN)/python -m experiments.prepare --oracle --potential
	$(BIN)/python -m experiments.discover --model=perov5_cds --target=min --num=100 --out=discover/demo
	@echo "open discover/demo/report.html in a browser; inputs for DFT are in discover/demo/shortlist"

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*
