# `make train` and `make test` do all of their own set-up.
#
#   PYTHON=python3.12                    another interpreter for .venv
#   ARGS="experiment=vision/mnist_cnn"   what `make train` runs
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu   a CPU build of torch (Linux; much smaller)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
ARGS ?=
# Processes that share the tests, one more than two cores, for tests often wait for something.
TEST_JOBS ?= 3
# Which tests (pytest -m); nothing after the = for all, those that repeat others for further options among them.
TESTS ?= not exhaustive

.PHONY: help train test check format clean
.DEFAULT_GOAL := help

help:
	@echo "make train   set up and run the default experiment (ARGS=... for overrides)"
	@echo "make test    set up and run every check: lint, format, types, tests"
	@echo "make check   the same, where the environment is there already (pytest alone runs the fast tests)"
	@echo "make format  mend lint and format"
	@echo "make clean   remove the environment and what tools cached"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "trilab needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	@echo "Making $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[rl]' || { $(PIP) -e . && \
		echo "Without Atari, Box2D and videos of episodes: not all of .[rl] could be installed here" >&2; }
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]'
	@touch $@

train: $(VENV)/.installed
	$(BIN)/trilab train $(ARGS)

test: $(VENV)/.installed-test check

check:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -m '$(TESTS)' -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

format:
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build .ruff_cache .mypy_cache .pytest_cache *.egg-info src/*.egg-info
