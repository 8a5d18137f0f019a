# make demo     everything from nothing: installs, makes the data, trains, compares, draws
# make test     installs, then lint, types and tests
# make install  what both share: a virtual environment in .venv, and nothing outside this folder

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test install lint types unit clean

demo: install
	$(BIN)/python demo/run.py

test: lint types unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/python -m pytest $(PYTEST_ARGS)

install: $(STAMP)

$(STAMP): setup.py pyproject.toml requirements/runtime.txt requirements/dev.txt requirements/detectron2.txt tools/install_detectron2.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11")'
	@echo "Installing into $(VENV): about 6.6 GB, a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-cache-dir --progress-bar on -r requirements/dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-cache-dir --quiet --no-deps lvis==0.5.3  # its dependencies would bring another OpenCV
	tools/install_detectron2.sh $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --no-cache-dir --quiet --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) output datasets/shapes build *.egg-info .mypy_cache .pytest_cache .ruff_cache
