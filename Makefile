# make demo    a first video, from nothing but Python 3.11: two ranks, on a GPU each or on the CPU; where there is one GPU, one
#              rank on it (two on the CPU: make demo DEMO="--ranks 2 --set runtime.device=cpu")
# make test    the tests, file by file on two processes (TEST_PROCESSES=N), which start ranks of their own; COVERAGE=1
#              adds the share of lines that run in the test processes themselves, without the ranks that they start
# make test-all    those marked slow as well: layouts of three to eight ranks, more cases of most tables, and nine faults in one
#                  run on Ray
# make soak    gangs that serve a queue are killed 200 times (KILLS=N, SOAK_SEED=N), half an hour on two cores; every job
#              must come to a good end, once, with the right video
# make disks   a disk is filled, made read-only, unplugged and slowed at random moments (MOMENTS=N, SOAK_SEED=N) of runs on two
#              ranks and of a gang with a queue; every video must come out right. As root, or where it may mount
# make lint    everything that can be checked without running the code
# make tiny-model    train the small model anew into outputs/tiny_wan (hours on two cores)
#
# pip takes the CUDA build of torch by default, which also runs without a GPU but is a large download. Where a
# smaller CPU build is to be had, name its index: make demo PIP_FLAGS="--extra-index-url ..."

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
DEMO ?=
TEST_PROCESSES ?= 2
COVERAGE ?=
KILLS ?= 200
SOAK_SEED ?= 0
MOMENTS ?= 30
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations=25
PYTEST += $(if $(COVERAGE),--cov --cov-report=)
# where PYTHONDONTWRITEBYTECODE is set, every process that a test starts would compile the sources anew
COMPILE := $(BIN)/python -m compileall -q engine dicache parallel launch tests

.PHONY: demo test test-all soak disks lint tiny-model setup clean

demo: setup
	$(BIN)/python -m launch.demo $(DEMO)

test: setup
	$(COMPILE)
	$(PYTEST) -m "not slow"
	$(if $(COVERAGE),$(BIN)/coverage report --skip-covered --sort=cover | tail -n 40)

test-all: setup
	$(COMPILE)
	$(PYTEST)

soak: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --kills $(KILLS) --seed $(SOAK_SEED)

disks: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.disks --moments $(MOMENTS) --seed $(SOAK_SEED)

lint: setup
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

tiny-model: setup
	$(BIN)/python -m configs.tiny_wan.recipe.train --output outputs/tiny_wan

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Lockstep needs Python 3.11 or newer: install it, or name it with make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv outputs *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
