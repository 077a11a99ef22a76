# make demo: set up and pretrain a small BERT here. make test: set up and run all checks and tests, but for the slow
# ones, which make test-slow runs.
PYTHON := .venv/bin/python
# One more than the two cores that they are meant for: tests on Slurm mostly wait.
PYTEST := $(PYTHON) -m pytest --numprocesses 3

.PHONY: demo test test-slow check setup slurm format lock clean

demo: setup
	@scripts/demo.sh

test: setup slurm check
	@$(PYTEST) --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: setup slurm
	@$(PYTEST) --dist load -m slow

check: setup
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/shellcheck run.sub scripts/*.sh data/*.sh benchmarks/lddl/*.sh .ci/run

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh

slurm:
	@scripts/install_slurm.sh

format: setup
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

lock:
	@scripts/lock.sh

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
