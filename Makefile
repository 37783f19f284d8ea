# Two commands on a fresh machine: `make demo` and `make test`. Both need Python 3.11+ and the
# package registry. Set-up is repeated only when requirements.txt or pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := --extra demo --extra drafting --extra recipes

.PHONY: demo test shell test-cluster lint format bench soak requirements clean

demo: $(READY)
	$(BIN)/python jobs/demo.py --output runs/demo

test: $(READY)
	$(BIN)/python -m pytest

# A shell in which `sdmad`, `ray` and `python` are those of this checkout.
shell: $(READY)
	@echo "sdmad $$($(BIN)/sdmad --version | cut -d' ' -f2) is ready; 'exit' leaves this shell"
	@PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" $${SHELL:-/bin/sh} -i

# Minutes: job submission, autoscaling and node loss on clusters of this machine's own processes,
# an archive encoded and scored on Ray, a fit from activations, and two runs on one output.
test-cluster: $(READY)
	$(BIN)/python -m pytest -m cluster

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint cluster/Dockerfile
	$(BIN)/python -m tests.vulnerabilities

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The short form, twenty minutes; benchmarks/README.md has the commands of its tables.
bench: $(READY)
	$(BIN)/python benchmarks/seeds_in_one_batch.py --repeats 1
	$(BIN)/python benchmarks/scoring_limit.py model --images 400 --repeats 1
	$(BIN)/python benchmarks/scoring_limit.py decode --images 1000 --copies 4 --repeats 1
	$(BIN)/python benchmarks/growth.py --images 1000 --times 4 --repeats 1
	$(BIN)/python benchmarks/thread_waits.py --repeats 1
	$(BIN)/python benchmarks/planning.py --repeats 1
	$(BIN)/python benchmarks/startup.py --repeats 1
	$(BIN)/python benchmarks/gpu_forward.py --model ViT-B-32 --batch 16 --batches 3

# An hour: mutated files, large shards, SIGKILL of anything at random moments.
soak: $(READY)
	$(BIN)/python benchmarks/fuzz.py --files 20000
	$(BIN)/python benchmarks/large_shards.py
	$(BIN)/python benchmarks/soak.py --trials 50

# Pins for every platform; `--upgrade` in UV_FLAGS renews them.
requirements: $(READY)
	$(BIN)/uv pip compile -q pyproject.toml $(EXTRAS) --group dev --universal \
		--python-version 3.11 --no-annotate --no-header $(UV_FLAGS) -o requirements.txt

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sdmad needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV) (about a minute)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -r requirements.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e . --config-settings editable_mode=compat
	@touch $(READY)
