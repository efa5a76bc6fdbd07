# make demo    install, then three ways through a bundled clip (VIDEO=my.mp4: objects in yours, MODEL= name or file)
# make test    install, then the tests
PYTHON ?= python3
BIN := .venv/bin
OUT ?= out
MODEL ?= yolox-nano

.PHONY: demo test lint types format clean

demo: .venv/installed
ifdef VIDEO
	$(BIN)/keywarp detect "$(VIDEO)" --model "$(MODEL)" --output "$(OUT)" --overwrite
else ifeq ($(origin MODEL),command line)
	@echo "MODEL is for a video of yours: make demo VIDEO=my.mp4 MODEL=$(MODEL)"; exit 2
else
	$(BIN)/keywarp demo --output "$(OUT)" --overwrite
endif

test: .venv/installed
	$(BIN)/pytest --numprocesses 2 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "keywarp needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build out .pytest_cache .ruff_cache .mypy_cache
