# Two commands do all the set-up:  make quickstart  and  make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
# Epochs of quickstart: of the supernet, of the winner.
EPOCHS ?= 3
TUNING ?= 7
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)
export MAX_JOBS ?= $(shell nproc)

.PHONY: quickstart results-tiny test test-chains test-long test-kernels test-headers test-aarch64 test-ray test-asan gpu lint types docs format bench litert package clean

quickstart: $(VENV)/built
	$(BIN)/python tools/train_supernet.py --run $(RUN) --epochs $(EPOCHS)
	test -e $(RUN)/lut.json || $(BIN)/python tools/build_lut.py --run $(RUN) --runtime torch
	$(BIN)/python tools/evolve.py --run $(RUN) --population 24 --iterations 10 --random 24
	$(BIN)/python tools/retrain.py --run $(RUN) --pick best --recipe modern --epochs $(TUNING) --controls 1
	$(BIN)/python tools/report.py --run $(RUN)

# What docs/papers.md shows of ours, one command after the other, and the page; goes on where it was stopped.
results-tiny: $(VENV)/built
	$(BIN)/python -m experiments all all

# A file of tests in one process each, on every core.
KERNELS := tests/test_ptxas.py tests/test_sass.py $(wildcard tests/test_simt*.py)
test: $(VENV)/built
	$(BIN)/python -m pytest -n auto --dist loadfile --durations 15 $(KERNELS:%=--ignore=%) --ignore=tests/test_cuda_model.py

# Commands one after the other as people use them, and killed in between.
test-chains: $(VENV)/built
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 15 -m chain

test-long: $(VENV)/built
	SUPERNET_CRASHES=500 SUPERNET_FUZZ=10000 SUPERNET_FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow"

# The CUDA kernels without a GPU: what ptxas makes of them, and run on the CPU, under the address sanitizer too.
test-kernels: $(VENV)/built
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow" -k "not sm_80" $(KERNELS)
	$(BIN)/python -m pytest -n auto tests/test_cuda_model.py
	$(BIN)/python -m pytest -m slow tests/test_gpu.py

# The sources with the headers of older releases of PyTorch.
test-headers: $(VENV)/installed
	$(BIN)/python -m pytest -n auto -m slow tests/test_headers.py

# What decides on a machine with a GPU, in 9 minutes (MINUTES=30: each stage has longer); nothing is installed or
# downloaded. Results lie in runs/gpu, and are gone on with; delete it to begin anew. DRY=1: on the CPU, tiny.
gpu:
	PYTHONPATH=.:tests:tools $(or $(wildcard $(BIN)/python),$(PYTHON)) -m gpu.run $(if $(DRY),--dry) $(MINUTES:%=--minutes %)

# The kernels for any processor as ARM code, in whose vectors they are NEON's, run by qemu's user mode:
# apt-get install g++-aarch64-linux-gnu qemu-user
test-aarch64: $(VENV)/installed
	mkdir -p build/aarch64
	aarch64-linux-gnu-g++ -std=c++20 -O3 -static -Wall -Wextra -Werror -Icsrc \
	  -isystem $$($(BIN)/python -c 'from torch.utils.cpp_extension import include_paths; print(include_paths()[0])') \
	  csrc/cpu/isa/generic.cpp tests/aarch64/generic.cpp -o build/aarch64/generic
	qemu-aarch64 build/aarch64/generic

# Workers of Ray, which is too large (257 MB) to be installed for every test.
test-ray: $(VENV)/built
	$(BIN)/python -m pip install --quiet -c constraints.txt 'ray==2.60.*'
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_ray_executor.py

# The operators, built for the sanitizers, under calls with wrong arguments.
test-asan: $(VENV)/installed
	SUPERNET_SANITIZE=1 $(BIN)/python setup.py --quiet build_ext --build-lib build/sanitized
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" PYTHONPATH=tests \
	  SUPERNET_FUZZ_EXAMPLES=250 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -m pytest -n auto -p sanitized tests/test_ops_fuzz.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

# docs/ as a site, in build/docs. What warns fails, and a link that leads nowhere warns.
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs-material 'mkdocstrings[python]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Wheel and sdist, each installed into an environment of its own, and the installed command tried there.
package: $(VENV)/installed
	bash .ci/package $(BIN)/python

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/built
	$(BIN)/python tools/bench.py step

# TFLite: its converter needs older packages than ours, so it gets an environment of its own (1.1 GB); the runtime ours.
litert: $(VENV)/installed
	test -x .venv-litert/bin/python || $(PYTHON) -m venv .venv-litert
	.venv-litert/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt) litert-torch==0.10.0 ai-edge-litert==2.3.0
	$(BIN)/python -m pip install --quiet -c constraints.txt ai-edge-litert==2.3.0

# The environment: exactly the versions that were tested.
$(VENV)/installed: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed, $(PYTHON) is older: make PYTHON=python3.11 …"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "error: $(PYTHON) cannot make virtual environments: apt-get install python3-venv python3-dev"; exit 2; }
	@command -v g++ >/dev/null || { echo "error: no C++ compiler: apt-get install g++"; exit 2; }
	@echo "The tested packages go into $(VENV): 7 GB, most of it PyTorch's libraries for GPUs. That is silent, and takes minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt
	@touch $@

# The extension. CUDA is built where nvcc and a GPU are, or with SUPERNET_CUDA=1.
$(VENV)/built: $(VENV)/installed $(SOURCES)
	@echo "The operators are compiled, as many files at once as there are cores: minutes, silent too."
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf build supernet/*.so *.egg-info
