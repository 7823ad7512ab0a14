# `make demo` sets up and runs the main job, `make live` the service on a simulated fleet in fast
# motion; `make test` sets up and runs every check, `make faults` the long form of those that kill,
# fill and damage.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo live test faults lint clean

$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/ready
	run=$$($(BIN)/python cli.py train --epochs 20 --precision bf16 --set windows_per_epoch=2048) \
	&& $(BIN)/python cli.py evaluate $$run

live: $(VENV)/ready
	$(BIN)/python cli.py demo

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict tft

test: lint
	$(BIN)/python -m pytest -n 2

faults: $(VENV)/ready
	FAULT_ROUNDS=50 $(BIN)/python -m pytest tests/faults tests/test_checkpoint.py tests/test_loop.py

clean:
	rm -rf $(VENV) runs training lr-find
