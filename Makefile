# make demo: set up and pretrain a small BERT here. make test: set up and run all checks and tests except the slow ones,
# which make test-slow runs. make chaos SEED=7: a run under all faults of tests/cluster/chaos, in an order of its own.
# make check: what can be checked in a minute, as before each commit. make docs: the documentation as a site.
SEED ?= 1
PYTHON := .venv/bin/python
# More processes than the two cores that the tests are meant for: tests on Slurm mostly wait.
PYTEST := $(PYTHON) -m pytest --numprocesses 4

.PHONY: demo test test-slow chaos check docs setup slurm trackers triton chromium format docs-settings lock clean

demo: setup
	@scripts/demo.sh

# Without the docs' tests, which check has just run.
test: setup slurm chromium check
	@$(PYTEST) --dist loadfile --no-loadscope-reorder -m "not slow" --ignore=tests/docs

# Dealt singly: in chunks, one process would get the two longest, one after the other.
test-slow: setup slurm trackers triton
	@$(PYTEST) --dist load --maxschedchunk 1 -m slow

chaos: setup slurm
	@BERTJOBS_CHAOS_SEED=$(SEED) $(PYTHON) -m pytest -q -m "not slow" tests/cluster/chaos

check: setup
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/shellcheck run.sub scripts/*.sh data/*.sh benchmarks/lddl/*.sh .ci/run
	@$(PYTHON) -m pytest -q -p no:cacheprovider tests/docs

docs: setup
	@$(PYTHON) -m sphinx -W --keep-going -q docs docs/_build
	@echo docs/_build/index.html

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh

slurm:
	@scripts/install_slurm.sh

trackers: setup
	@scripts/install_trackers.sh

triton: setup
	@scripts/install_triton.sh

chromium:
	@scripts/install_chromium.sh

format: setup
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

docs-settings: setup
	@$(PYTHON) -m bertjobs recipes settings --markdown >docs/settings.md

lock:
	@scripts/lock.sh

clean:
	rm -rf docs/_build .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
