# make setup        only the environment: .venv with what is needed; `source .venv/bin/activate` turns it on
# make quickstart   set up, then train, distil and compare on the embedded data set (two cores: under five minutes)
# make check        ruff, mypy and a covering part of the tests, in about a minute on two cores; before every commit, after
#                   the tests of what you added yourself, which it does not know: see CONTRIBUTING.md
# make loaders      set up, and DALI and FFCV besides; as root it gets FFCV's system packages by apt-get
# make slurm        Debian's packages of Slurm for the tests of launch/, as root by apt-get
# make test         all that, then the test suite; where Slurm cannot be had it says so and leaves its tests out
# make test-all     the suite with the exhaustive matrices
# make test-gpu     tests/gpu for correctness on one GPU, in at most five minutes, with $(PYTHON) as it is found: docs/gpu.md
# make hooks        ruff and mypy before every commit, by pre-commit, which must be installed
# make format       put the sources into shape; make clean removes the environment
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export OMP_NUM_THREADS ?= 1

.PHONY: setup loaders slurm quickstart check check-style check-tests hooks test test-all test-gpu format clean
.DELETE_ON_ERROR:

setup: $(VENV)/.ready

# torchvision's own requirements (and timm's) would replace a CPU build of torch by another one, hence --no-deps.
$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable '.[test]'
	$(PIP) --no-deps --constraint constraints.txt torchvision timm
	@touch $@

loaders: $(VENV)/.loaders

# FFCV is not published as a wheel, and asks for more than it needs: see setup/ffcv.sh.
$(VENV)/.loaders: $(VENV)/.ready setup/ffcv.sh
	setup/ffcv.sh $(BIN)/python
	$(PIP) --constraint constraints.txt --editable '.[dali,ffcv]'
	@$(BIN)/python -c 'import ffcv.reader, nvidia.dali' || { echo 'DALI or FFCV cannot be imported' >&2; exit 1; }
	@touch $@

slurm:
	setup/slurm.sh

quickstart: setup
	$(BIN)/python launch/quickstart.py

# Chosen by measuring, some 100 s of one core besides half a minute of mypy without its cache: arrows, documents,
# configuration, each method and each small network against its official code, the law of views, the pages' and the
# examples' trainings.
CHECKED := tests/test_layering.py tests/test_pages.py tests/config tests/distillers/test_documents.py \
	tests/distillers/test_declarations.py tests/golden tests/test_adding_a_distiller.py tests/test_extending.py \
	tests/examples tests/engine/test_update.py tests/test_views_counter.py tests/test_views_sampling.py

check: setup
	@$(MAKE) --no-print-directory -j 2 --output-sync check-style check-tests

# All three, whichever fails.
check-style: setup
	@failed=0; for tool in 'ruff check .' 'ruff format --check .' mypy; do \
		echo "$(BIN)/$$tool"; $(BIN)/$$tool || failed=1; done; exit $$failed

check-tests: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not gpu' \
		-k 'not (test_published_network and imagenet)' $(CHECKED)

hooks: setup
	pre-commit install

# suite MARKERS: one line says why where the tests of Slurm are left out, and their number follows as deselected
suite = @unwanted='$(1)'; setup/slurm.sh || { unwanted="$$unwanted or slurm"; \
	echo 'left out: the tests marked slurm (tests/slurm)'; }; \
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not ($$unwanted)"

test: loaders
	$(call suite,slow or gpu)

test-all: loaders
	$(call suite,gpu)

# No environment of its own and no network: on a machine with a GPU, torch for its CUDA is there.
test-gpu:
	PYTHON='$(PYTHON)' bash tools/gpu/test.sh

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache
