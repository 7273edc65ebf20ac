PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 3

.PHONY: demo docs test

demo: $(VENV)/installed
	$(BIN)/python -m pipelines.demo

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[test]"
	touch $@
