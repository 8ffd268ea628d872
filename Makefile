# make quickstart   set up, then train, distil and compare on the embedded data set (two cores: under five minutes)
# make test         set up, then the test suite (two cores: under fifteen minutes)
# make test-all     the suite with the exhaustive matrices
# make format       put the sources into shape; make clean removes the environment
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export OMP_NUM_THREADS ?= 1

.PHONY: setup quickstart test test-all format clean
.DELETE_ON_ERROR:

setup: $(VENV)/.ready

# torchvision's own requirements (and timm's) would replace a CPU build of torch by another one, hence --no-deps.
$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable '.[test]'
	$(PIP) --no-deps --constraint constraints.txt torchvision timm
	@touch $@

quickstart: setup
	$(BIN)/python launch/quickstart.py

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not gpu'

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not gpu'

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache
