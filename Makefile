# Needs python3 (3.11 or later) and make; everything else is installed into .venv, the first time only.
# Another interpreter:  make test PYTHON=python3.12   (its own environment, .venv-python3.12)

PYTHON ?= python3
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: help demo test test-slow lint types check schema docs layers cli zoo models drawings seeing bench clean

help:  ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## Train LeNet on real handwritten digits.
	$(BIN)/jaffe train

test: $(VENV)/.developer  ## Run the tests, but for the slow ones.
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: $(VENV)/.developer  ## Run the slow tests only.
	$(BIN)/python -m pytest -m slow $(PARALLEL)

lint: $(VENV)/.developer  ## ruff.
	$(BIN)/ruff check .

types: $(VENV)/.developer  ## mypy.
	$(BIN)/mypy

check: lint types test  ## Everything that must pass before a change is done.

schema: $(VENV)/.developer  ## Generate the protobuf module from the schema.
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. jaffe/netdef/jaffe.proto

docs: $(VENV)/.developer  ## Build the site in docs/_build/html; runs the notebooks, but those that have not changed.
	$(BIN)/sphinx-build -W --keep-going -n docs docs/_build/html

cli: $(VENV)/.developer  ## Write docs/cli.md, the reference of the command line.
	$(BIN)/python docs/cli.py

layers: $(VENV)/.developer  ## Write docs/layers.md, the reference of the layer types.
	$(BIN)/python docs/layers.py

zoo: $(VENV)/.developer  ## Write docs/zoo.md, the nets of the zoo and what their recipes reach.
	$(BIN)/python -m docs.zoo

models: $(VENV)/.developer  ## Write docs/models.md, the published models that jaffe was compared on (needs ../shared).
	$(BIN)/python docs/models.py

drawings: $(VENV)/.developer  ## Draw the pictures of the docs (needs Graphviz's dot).
	$(BIN)/python docs/draw.py

seeing: $(VENV)/.developer  ## Make the pictures of docs/seeing.md (needs ../shared).
	$(BIN)/python docs/seeing.py

bench: $(VENV)/.developer  ## Time jaffe against plain Flax, and PyTorch where it is installed (an hour or more).
	$(BIN)/python -m benchmarks

clean:  ## Remove the environments and what the demo wrote.
	rm -rf .venv .venv-* runs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaffe needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	@touch $@
