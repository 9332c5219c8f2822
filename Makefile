# Needs Python 3.11 and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: setup demo test test-package setup-scale test-scale test-web setup-browser test-browser setup-interop test-interop lint format bench fonts clean

setup: $(STAMP)

# torch first and by its exact version: a plain "torch" may fetch gigabytes for GPUs that are not there.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crnn needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,read,words,hub,serve,dev]'
	touch $(STAMP)

# Trains a small network on rendered words, evaluates it on words it has not seen, and reads images with it.
demo: setup
	$(BIN)/python examples/demo.py

test: lint
	$(BIN)/pytest -q

# The package as users install it: built, installed with each extra into an environment of its own, tried from another
# folder. A gigabyte in a temporary folder, and some minutes: no part of test.
test-package: setup
	CRNN_TEST_PACKAGE=1 $(BIN)/pytest -q --durations=0 tests/test_package.py

# Reading on many machines, tried on two Ray nodes of this one. Half a gigabyte of packages and a minute: no part of test.
setup-scale: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[scale]'

test-scale: setup-scale
	$(BIN)/pytest -q tests/test_scale.py

# Reading in JavaScript, with ONNX Runtime for it: 150 MB and some seconds.
node_modules:
	npm install --prefix . --no-save --no-package-lock --no-audit --no-fund --ignore-scripts onnxruntime-web@1.30.0

test-web: setup node_modules
	$(BIN)/pytest -q tests/engines/test_plain_read.py

# The pages in Chromium, which is Debian's package chromium; 60 MB and a minute.
setup-browser: setup node_modules
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'

test-browser: setup-browser
	$(BIN)/pytest -q tests/serving/test_browser.py

# Exports in RapidOCR, OnnxTR, OpenCV and EasyOCR: 400 MB and a few minutes. EasyOCR's recognition needs no torchvision.
setup-interop: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[interop]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps easyocr

test-interop: setup-interop
	$(BIN)/pytest -q tests/interop

lint: setup
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Prints tables, a few minutes in all; writes nothing. Each takes --data FOLDER, crops with labels.tsv: see --help.
bench: setup
	for name in read decode train synth data serve; do $(BIN)/python benchmarks/$$name.py || exit; done

# Several hundred families for rendered text, by tools/fonts.tsv, into fonts/: needs apt-get, dpkg-deb and npm, no root.
fonts: setup
	$(BIN)/python tools/fonts.py

clean:
	rm -rf .venv build dist demo src/*.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis
