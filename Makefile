# Two commands: `make demo` and `make test`. Both set up .venv by themselves.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := export,cpu,openvino,tensorrt-rtx,triton,dev
TRITON := .venv-triton/bin

.PHONY: demo test check wheel clean

demo: .venv/ready
	$(BIN)/korsbert-export --model demo --fp16 --force
	$(BIN)/korsbert show artifacts/demo/fp16-onnxruntime

test: .venv/ready .venv-triton/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

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
	$(BIN)/pip install -q -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

# A real tritonserver without a container, and the runtime part of korsbert for its python backend, as in one.
.venv-triton/ready: pyproject.toml constraints-triton.txt
	test -x $(TRITON)/python || $(PYTHON) -m venv .venv-triton
	$(TRITON)/pip install -q -c constraints-triton.txt nvidia-pytriton==0.7.0 -e ".[cpu]"
	touch $@

clean:
	rm -rf .venv .venv-triton build dist
