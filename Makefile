# One target per thing a developer does. Needs Python 3.11+, git and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Of `make demo`: one rank a GPU, or two on the CPU. Where libjemalloc2 is installed it is used:
# with glibc's malloc a step takes twice as long after half an hour, because every step asks for other sizes.
MALLOC_CONF ?= oversize_threshold:0,dirty_decay_ms:10000,muzzy_decay_ms:0,narenas:2
MINUTES ?= 105
RANKS ?= $(shell nvidia-smi --list-gpus 2>/dev/null | grep --count . | sed 's/^0$$/2/')
# mypy and import-linter want a folder named like the package, whatever the checkout is called.
LINK := build/check/yardmaster

.PHONY: help serve chat test test-slow test-clients test-gpu check format bench bench-gpu bench-peers bench-compiled demo clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(LINK):
	mkdir -p $(dir $@) && ln -sfn ../.. $@

serve: $(STAMP) ## serve the embedded demo model on http://127.0.0.1:8000: two ranks, experts shared out
	$(BIN)/yardmaster serve --dp 2

chat: $(STAMP) ## talk to the embedded demo model in the terminal
	$(BIN)/yardmaster chat

test: $(STAMP) ## all CPU tests, on every core (8 at most)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

test-slow: $(STAMP) ## the longer sweeps
	$(BIN)/python -m pytest -m slow

test-clients: $(STAMP) ## the clients of docs/clients.md, fetched into .venv (1 GB), against a scripted and a real engine
	$(BIN)/python -m pip install --quiet --editable '.[dev,clients]'
	if command -v npm > /dev/null; then cd tests/clients/node && npm ci --silent; fi
	$(BIN)/python -m pytest tests/clients

test-gpu: $(STAMP) ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: $(STAMP) $(LINK) ## lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/check $(BIN)/mypy -p yardmaster
	PYTHONPATH=build/check $(BIN)/lint-imports

format: $(STAMP) ## let ruff mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## decode and prefill on this CPU, beside transformers and llama.cpp
	$(BIN)/python -m yardmaster.bench.cpu

bench-gpu: $(STAMP) ## this GPU: tests, then errors, times and distances from the floor, from kernels to whole models
	$(BIN)/python -m yardmaster.bench.gpu

bench-peers: $(STAMP) ## the same work through whatever else is installed on this GPU
	$(BIN)/python -m yardmaster.bench.peers
	$(BIN)/python -m yardmaster.bench.peers_attention
	$(BIN)/python -m yardmaster.bench.peers_model

bench-compiled: $(STAMP) ## what the compiler makes of the GPU kernels; needs no GPU
	$(BIN)/python -m yardmaster.bench.compiled

TRAIN = LD_PRELOAD=$(firstword $(wildcard /usr/lib/*/libjemalloc.so.2)) MALLOC_CONF=$(MALLOC_CONF) \
  $(BIN)/torchrun --standalone --nproc-per-node $(RANKS) -m yardmaster.demo train

demo: $(STAMP) ## train the embedded model again, into build/demo, for MINUTES=105 at most: the longer, the more it learns
	$(TRAIN) --folder build/demo/first --minutes $$(($(MINUTES) * 5 / 9))
	rm -rf build/demo/first/checkpoint build/demo/checkpoint
	$(BIN)/python -m yardmaster.demo export build/demo/first/checkpoint --folder build/demo/first --bfloat16
	$(TRAIN) --folder build/demo/deeper --config demo/deeper.toml --begin-with build/demo/first/checkpoint \
	  --minutes $$(($(MINUTES) * 4 / 9))
	$(BIN)/python -m yardmaster.demo export build/demo/checkpoint --folder build/demo/deeper --config demo/deeper.toml
	$(BIN)/python -m yardmaster.demo draw --folder build/demo/deeper --directory build/demo

clean: ## remove the environment and what was built
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
