# make demo · make test · make lint · make bench: each creates the environment first if it is not there.
PYTHON ?= python3
VENV ?= .venv
# Processes that share the tests; files are not divided, as their networks and runs are shared.
WORKERS ?= 2
BIN := $(VENV)/bin
LOCK := $(shell cat constraints.txt pyproject.toml | sha256sum | cut -c1-16)
STAMP := $(VENV)/.installed-$(LOCK)

.PHONY: demo test lint types bench environment clean
.DEFAULT_GOAL := demo

environment: $(STAMP)

$(STAMP):
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Secateur needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,openvino,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[rtx]' \
	  || echo "TensorRT for RTX does not install here: its engine and its tests are skipped"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]' \
	  || echo "pysaliency needs a C compiler to install: the comparison with it is skipped"
	rm -f $(VENV)/.installed-*
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/secateur run recipes/gaze-demo.yaml

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

bench: $(STAMP)
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done
	$(BIN)/python benchmarks/readme_tables.py

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
