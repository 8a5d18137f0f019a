# make demo     everything from nothing: installs, makes the data, trains, compares, draws
# make test     installs the developers' packages as well, then lint, types and tests
# make install  what the demo needs: a virtual environment in .venv, and nothing outside this folder
# make clean    removes the environment, what the demo has made and the tools' caches; trainings stay
# make dev      adds to it what lint, types, tests and the notebook need

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-cache-dir
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.installed-dev

.PHONY: demo test install dev lint types unit clean

demo: install
	$(BIN)/python demo/run.py

test: lint types unit

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy

unit: dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

install: $(INSTALLED)

dev: $(DEV_INSTALLED)

$(INSTALLED): setup.py pyproject.toml requirements/runtime.txt requirements/detectron2.txt tools/install_detectron2.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11")'
	@echo "Installing into $(VENV): about 6.2 GB, most of it torch with CUDA; a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --progress-bar on -r requirements/runtime.txt
	tools/install_detectron2.sh $(BIN)/python
	$(PIP) --quiet --no-build-isolation -e .
	touch $@

$(DEV_INSTALLED): $(INSTALLED) requirements/dev.txt
	@echo "Installing the developers' packages into $(VENV): about 0.8 GB."
	$(PIP) --progress-bar on -r requirements/dev.txt
	$(PIP) --quiet --no-deps lvis==0.5.3  # its dependencies would bring another OpenCV
	touch $@

clean:
	rm -rf $(VENV) output/demo datasets/shapes build *.egg-info .mypy_cache .pytest_cache .ruff_cache
