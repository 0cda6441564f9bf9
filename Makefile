# Everything runs from a virtual environment inside the checkout; PYTHON names the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
SOURCES := all4one data_pipelines trainer launch benchmarks tests docs examples setup.py
MEASURES := tests/integration/trainer/test_profiles.py
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 8 --dist loadfile
# Runs have processes of their own, and often wait for one of them.
TWO := --numprocesses 2 --dist loadfile

# Tests start hundreds of processes. Without bytecode each of them would compile all modules again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test test-runs test-cluster test-fast test-packages lint format docs bench gpu-check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make the environment; again: a moment

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup  ## from bundled images to an evaluated backbone, in a few minutes
	test -f data/digits/validation/dataset.json || $(BIN)/all4one data build digits data/digits
	rm -rf runs/digits_demo
	$(BIN)/all4one train digits_demo
	$(BIN)/all4one eval runs/digits_demo

test-packages:  ## SLURM and Chromium for the tests, where this user may install them; again: a moment
	tests/packages.sh

test: setup lint test-packages  ## everything that this machine can test
	$(MAKE) --jobs 2 test-cluster test-runs
	$(BIN)/python -m pytest $(MEASURES)

# The cluster mostly waits, so both fit beside each other. A test that measures needs the machine to itself.
test-runs:
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=10 tests/unit tests/golden tests/gpu
	$(BIN)/python -m pytest $(TWO) --durations=10 tests/integration $(MEASURES:%=--ignore=%)

test-cluster:
	$(BIN)/python -m pytest --durations=10 tests/slurm

test-fast: setup  ## unit tests only, without those marked slow
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow' tests/unit

lint: setup  ## style, types and the direction of imports
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## fix the style
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: setup  ## build the documentation site into site/
	$(BIN)/mkdocs build --strict

bench: setup test-packages  ## the figures of the README
	$(BIN)/python benchmarks/golden.py tests/golden/*.npz
	$(BIN)/python benchmarks/golden.py tests/golden/*.npz --nproc 2
	$(BIN)/python benchmarks/certified.py
	$(BIN)/python benchmarks/resume.py
	-$(BIN)/python benchmarks/lost_ranks.py
	-$(BIN)/python benchmarks/lost_ranks.py --nproc 4
	-$(BIN)/python benchmarks/lost_ranks.py --settings parallel.zero_stage=1 checkpoint.replicate_every=5
	-$(BIN)/python benchmarks/neighbor_copies.py
	$(BIN)/python benchmarks/parent_memory.py
	-$(BIN)/python benchmarks/loop.py
	-$(BIN)/python benchmarks/planned_goodput.py
	-$(BIN)/python benchmarks/planned_on_slurm.py
	-$(BIN)/python benchmarks/world_size.py
	$(BIN)/python benchmarks/world_size.py --precision fp64
	$(BIN)/python benchmarks/executors.py
	$(BIN)/python benchmarks/shuffle.py
	$(BIN)/python benchmarks/data_plane.py
	-$(BIN)/python benchmarks/data_throughput.py
	$(BIN)/python benchmarks/executor_runs.py
	-$(BIN)/python benchmarks/agreement.py
	-$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/neighbors.py
	-$(BIN)/python benchmarks/knn.py
	-$(BIN)/python benchmarks/engine.py
	$(BIN)/all4one profile imagenet_resnet50 --dry-run --world 64 train.precision=bf16 train.global_batch=16384
	$(BIN)/python benchmarks/scale_check.py backbone.width=64
	$(BIN)/python benchmarks/scale_model.py benchmarks/results/profile_imagenet_resnet50.json --rows 64 --tflops 70 --jitter 0.002
	-$(BIN)/python benchmarks/elastic.py
	-$(BIN)/python benchmarks/elastic.py --precision fp64
	$(BIN)/python benchmarks/checkpoint_stall.py
	$(BIN)/python benchmarks/replica_check.py
	$(BIN)/python benchmarks/rank_record.py
	-$(BIN)/python benchmarks/recovery_cost.py
	-$(BIN)/python benchmarks/named_hangs.py
	-$(BIN)/python benchmarks/profile_repeats.py
	-$(BIN)/python benchmarks/python_lock.py
	-$(BIN)/python benchmarks/busy_cores.py
	$(BIN)/python benchmarks/status.py
	$(BIN)/python benchmarks/chaos.py --baseline
	$(BIN)/python benchmarks/cifar10_short.py
	$(BIN)/python benchmarks/study_forecasts.py
	-$(BIN)/python benchmarks/equal_time.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/tune.py
	test -d runs/digits_demo || $(MAKE) demo
	$(BIN)/python benchmarks/report.py runs/digits_demo

gpu-check: setup  ## tests that need a CUDA device, and a table of what one GPU does in ten minutes
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/gpu_check.py

clean:  ## remove the environment and caches; data and runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
