# Needs Python 3.11 and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: setup demo test test-scale lint format bench fonts clean

setup: $(STAMP)

# torch first and by its exact version: a plain "torch" may fetch gigabytes for GPUs that are not there.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crnn needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,onnx,openvino,words,dev]'
	touch $(STAMP)

# Trains a small network on rendered words, evaluates it on words it has not seen, and reads pictures with it.
demo: setup
	$(BIN)/python scripts/demo.py

test: lint
	$(BIN)/pytest -q

# Reading on many machines, tried on two Ray nodes of this one. Half a gigabyte of packages and a minute: no part of test.
test-scale: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[scale]'
	$(BIN)/pytest -q tests/test_scale.py

lint: setup
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Prints tables; writes nothing. DATA=a list file of real crops, where there is one.
bench: setup
	$(BIN)/python benchmarks/model_size.py
	$(BIN)/python benchmarks/train_loop.py
	$(BIN)/python benchmarks/synth.py --rounds 3

# Several hundred families for rendered text, by scripts/fonts.tsv, into fonts/: needs apt-get, dpkg-deb and npm, no root.
fonts: setup
	$(BIN)/python scripts/fonts.py

clean:
	rm -rf .venv build dist demo src/*.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis
