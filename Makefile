# make demo    install, then detect objects in a bundled clip (VIDEO=my.mp4 for yours, MODEL= name or file)
# make test    install, then the tests
PYTHON ?= python3
BIN := .venv/bin
OUT ?= out

CLIP := src/keywarp/assets/demo.mp4
VIDEO ?= $(CLIP)
MODEL ?= $(if $(filter $(CLIP),$(VIDEO)),demo,yolox-nano)

.PHONY: demo test lint types format clean

demo: .venv/installed
	$(BIN)/keywarp detect "$(VIDEO)" --model "$(MODEL)" --output "$(OUT)" --overwrite $(if $(filter demo,$(MODEL)),--threshold 0.35)

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
