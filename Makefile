# Everything a newcomer needs. Each target sets up what it stands on; a second run
# skips what is there. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The CPU build of vLLM, unless an NVIDIA driver is found. Override: make EXTRA=gpu ...
EXTRA ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
DEMO ?= demo

# pip's own variable for a folder of wheels; uv wants it under another name. Where it
# is set, torch comes from there, and no torch backend is chosen.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
TORCH_BACKEND :=
else
TORCH_BACKEND := --torch-backend=$(if $(filter gpu,$(EXTRA)),auto,cpu)
endif

# Three processes of tests: one has every vLLM, one every other Ray, and mostly waits;
# the third all the rest.
SIDE_BY_SIDE := -n 3 --dist loadgroup
# Tests compute with tiny tensors, where a second thread only waits for the first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest

# Without cached bytecode every process would compile torch, vLLM and Ray anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV)/ready-$(EXTRA) ## Make the virtual environment, with pinned versions

$(VENV)/ready-$(EXTRA): pyproject.toml requirements/$(EXTRA).txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "evomerge needs Python 3.11 or newer; this is $$($(PYTHON) -V)." \
	    "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "==> virtual environment in $(VENV) ($(EXTRA))"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "==> packages, as pinned in requirements/$(EXTRA).txt"
	$(BIN)/uv pip install --python $(BIN)/python $(TORCH_BACKEND) \
	  -e ".[$(EXTRA),dev]" -c requirements/$(EXTRA).txt
	@touch $@

.PHONY: demo
demo: setup ## Train small models, search for their best merge, export it (under 20 min)
	$(BIN)/evomerge zoo $(DEMO)/zoo
	$(BIN)/evomerge run search_spaces/demo.yaml --db sqlite:///$(DEMO)/evomerge.db
	$(BIN)/evomerge export demo $(DEMO)/best --replace --db sqlite:///$(DEMO)/evomerge.db

# Threads that wait without spinning: on a busy machine training takes a fifth.
.PHONY: demo-real
demo-real: setup ## The same with a real language model of 135 million parameters
	OMP_WAIT_POLICY=passive $(BIN)/evomerge zoo $(DEMO)/real --set real
	$(BIN)/evomerge run $(DEMO)/real/study.yaml --db sqlite:///$(DEMO)/real.db
	$(BIN)/evomerge export real $(DEMO)/best-real --replace --db sqlite:///$(DEMO)/real.db
	$(BIN)/python -m evomerge.zoo.real.ask $(DEMO)/best-real \
	  "What is the capital of France?" --plain "Add: 47 + 38 =" --plain "Add: 62 + 29 =" \
	  --plain "Sort: pen ant hat =>" --plain "Sort: dog sun cat =>"

.PHONY: format
format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: check
check: setup ## Format, lint, types, import contract and the quick tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q $(SIDE_BY_SIDE) -m "not (engine or ray or slow or long or gpu or drill)"

.PHONY: test
test: setup ## Every test but the GPU ones and the long sweeps (about 20 min)
	EVOMERGE_NEED_GROUPS=1 $(PYTEST) $(SIDE_BY_SIDE) --durations=25

.PHONY: test-long
test-long: setup ## The long sweeps
	$(PYTEST) -m long --timeout 7200

.PHONY: test-cluster
test-cluster: setup ## Strike at the machines of a pretended cluster; needs root, Linux (about 17 min)
	$(PYTEST) -m drill

.PHONY: gpu-check
gpu-check: ## The checks that need a GPU, with the Python given
	PYTHONPATH=tests $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m pytest -q -rs \
	  -c /dev/null --rootdir . --confcutdir tests/gpu tests/gpu

.PHONY: cluster-demo
cluster-demo: setup ## The whole service on this machine, struck twice (under 20 min)
	PYTHONPATH=tests $(BIN)/python benchmarks/cluster_demo.py --folder $(DEMO)/cluster

.PHONY: fault-sweep
fault-sweep: setup ## Strike at replicas and their database at random; see benchmarks/RESULTS.md
	PYTHONPATH=tests $(BIN)/python benchmarks/fault_sweep.py --minutes 20

.PHONY: bench
bench: setup ## Measure; see benchmarks/RESULTS.md
	$(BIN)/python benchmarks/trial_overhead.py
	$(BIN)/python benchmarks/strategies.py
	PYTHONPATH=tests $(BIN)/python benchmarks/store.py
	PYTHONPATH=tests $(BIN)/python benchmarks/idle_share.py --workers 16
	$(BIN)/python benchmarks/merge_speed.py
	$(BIN)/python benchmarks/stack_swap.py

.PHONY: study-dataflow
study-dataflow: setup ## Does data flow pay? Under 90 min; see docs/dataflow.md
	$(BIN)/python benchmarks/study_dataflow.py --zoo $(DEMO)/zoo --depths $(DEMO)/depths \
	  --folder $(DEMO)/dataflow

.PHONY: docs
docs: setup ## API pages in docs/api
	$(BIN)/pdoc -d google -o docs/api evomerge

.PHONY: golden
golden: setup ## Rewrite the golden files; review the difference
	EVOMERGE_REWRITE_GOLDEN=1 $(BIN)/pytest -q -k golden

.PHONY: defaults
defaults: setup ## Read anew what transformers takes for granted of its families
	PYTHONPATH=tests $(BIN)/python -m support.config_defaults

.PHONY: families
families: setup ## Merge every architecture of transformers; write docs/models.md's table
	$(BIN)/python benchmarks/families.py --write
	$(BIN)/python benchmarks/families.py --published --write

.PHONY: families-in-vllm
families-in-vllm: setup ## Serve every family that merges by vLLM; write the table's column
	$(BIN)/python benchmarks/families_in_vllm.py --all --write

.PHONY: lock
lock: ## Pin the versions anew
	$(LOCK) $(TORCH_BACKEND) --extra cpu -o requirements/cpu.txt
	env -u UV_FIND_LINKS $(LOCK) --extra gpu -o requirements/gpu.txt
	sed -i 's/+cpu//' requirements/cpu.txt  # one file for every build of torch

LOCK = $(BIN)/uv pip compile pyproject.toml --extra dev --upgrade --python-version 3.11 \
  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet
