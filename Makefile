# `make demo` and `make test` are the first two commands. Every target sets up the environment that it needs.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := export,cpu,openvino,tensorrt-rtx,triton,dev
TRITON := .venv-triton/bin
NEWEST := .venv-newest/bin
OLDEST := .venv-oldest/bin
SUITE := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What `make test-newest` installs as torch. The torch on PyPI brings gigabytes of CUDA on Linux. For a newer CPU build:
#   make test-newest TORCH=torch PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0

.PHONY: demo test fuzz test-newest test-oldest check docs coverage wheel clean

demo: .venv/ready
	$(BIN)/korsbert-export --model demo --fp16 --force
	$(BIN)/korsbert show artifacts/demo/fp16-onnxruntime

test: .venv/ready .venv-triton/ready
	OMP_NUM_THREADS=1 $(BIN)/python $(SUITE)

# The fuzz tests with 5,000 cases each: about an hour. `make test` runs 200.
fuzz: .venv/ready
	KORSBERT_FUZZ_CASES=5000 $(BIN)/python -m pytest tests/unit/test_hostile_files.py tests/unit/serving/test_remote.py

# The suite with the newest version of every package, in an environment that is made anew each time.
test-newest: .venv-triton/ready
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	$(NEWEST)/pip install -q $(TORCH)
	$(NEWEST)/pip install -q -e ".[$(EXTRAS)]"
	$(NEWEST)/pip list
	OMP_NUM_THREADS=1 $(NEWEST)/python $(SUITE)

# The suite with the lowest versions that pyproject.toml allows.
test-oldest: .venv-oldest/ready .venv-triton/ready
	OMP_NUM_THREADS=1 $(OLDEST)/python $(SUITE)

check: .venv/ready docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

# The documentation site, in build/site. The page of the command line is written from the code; warnings are errors.
docs: .venv/ready
	$(BIN)/python -m typer exporter.cli.main utils docs --name korsbert --title "Command line" \
	  --output docs/reference/cli.md
	$(BIN)/zensical build --strict --clean

# Branch coverage of the unit tests; the floor is in pyproject.toml. It is not part of `make test`, because coverage.py
# slows every Python line down here: sys.monitoring measures branches only from Python 3.14 on.
coverage: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python $(SUITE) -q --cov --cov-report=term tests/unit

# Builds the wheel, installs it in a clean environment elsewhere, and exports `demo` by name from there.
wheel: .venv/ready
	rm -rf dist build/wheel-venv build/wheel-run
	$(BIN)/python -m build --wheel -o dist .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/pip install -q -c constraints.txt torch==2.13.0
	build/wheel-venv/bin/pip install -q -c constraints.txt "$$(ls dist/*.whl)[export,cpu]"
	mkdir -p build/wheel-run
	cd build/wheel-run && ../wheel-venv/bin/korsbert-export --model demo --fp16
	cd build/wheel-run && ../wheel-venv/bin/korsbert show artifacts/demo/fp16-onnxruntime

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e ".[$(EXTRAS),docs]"
	touch $@

.venv-oldest/ready: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/pip install -q -c constraints-oldest.txt torch
	$(OLDEST)/pip install -q -c constraints-oldest.txt -e ".[$(EXTRAS)]"
	touch $@

# A real tritonserver without a container, and the runtime part of korsbert for its python backend, as in one.
.venv-triton/ready: pyproject.toml constraints-triton.txt
	test -x $(TRITON)/python || $(PYTHON) -m venv .venv-triton
	$(TRITON)/pip install -q -c constraints-triton.txt nvidia-pytriton==0.7.0 -e ".[cpu]"
	touch $@

clean:
	rm -rf .venv .venv-newest .venv-oldest .venv-triton .cache build dist
