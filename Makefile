# make demo: phantom CT -> segmentation -> pictures;  make test: all tests but those of minutes each (make test-slow). Both install what they need into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where there is no NVIDIA GPU, point TORCH_INDEX at PyTorch's CPU package index to save the CUDA libraries.
TORCH_INDEX ?=

.PHONY: demo test test-slow lint bench screenshots clean

demo: $(STAMP)
	$(BIN)/focusnet demo -o demo-output

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p focusnet -p focusnet_training -p FocusNetSegmentationLib -p FocusNetTrainingLib

# Needs EGL for the views (Debian: libegl1) and Qt's system libraries for the panels.
screenshots: $(STAMP)
	$(BIN)/python Testing/screenshots/make_screenshots.py Resources/Screenshots

# Those that ask for nothing and take minutes; the others (data, training) tell their command in their first lines.
bench: $(STAMP)
	for name in metrics mrml_write quality_flags training; do $(BIN)/python Benchmarks/$$name.py || exit 1; done

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dask,dicomseg,mrml,train,dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
