# Everything runs in the project's own .venv, which the first target makes and the others reuse.
#
# constraints.txt pins torch: where the package index has a CPU build of it, no GPU packages arrive. On Linux without a
# GPU, set PIP_EXTRA_INDEX_URL to PyTorch's CPU index first (see pytorch.org, "Get started").
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
READY_TO_BENCHMARK := .venv/.ready-to-benchmark

.PHONY: demo wheel test faults lint benchmark gpu-dry-run format clean

demo: $(READY)  ## compare four ways to fine-tune a small encoder on the shipped data, offline
	HF_HUB_OFFLINE=1 $(BIN)/leantune demo

wheel: $(READY)  ## build the wheel, and train from it for a few steps in an environment that has only what it depends on
	rm -rf build/wheel build/dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --no-deps build/dist/*.whl
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(build/wheel/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
	HF_HUB_OFFLINE=1 build/wheel/bin/leantune train src/leantune/data/emobank_mood.csv --text text --target mood \
		--model demo --set optimizer.max_steps=2 --output build/wheel/run

test: $(READY)  ## the tests, without the slow ones
	$(BIN)/pytest -n 2

faults: $(READY)  ## the tests that kill, cut and damage many times; minutes
	$(BIN)/pytest -n 2 -m slow

lint: $(READY)  ## style, types, and the order of the stages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(READY_TO_BENCHMARK)  ## leantune against what a user would take instead; DATA=folder of data sets (docs/benchmarks.md)
	$(BIN)/python benchmarks/sets.py $(DATA)

# An environment of its own, whose torch has CUDA: about 5 GB. `===` asks for the version without a local part, which is
# not the CPU build.
CUDA_TORCH ?= 2.13.0
DRY := build/gpu-dry-run
gpu-dry-run: $(READY) $(DRY)/.ready  ## whole training steps on fake CUDA tensors, without a GPU; writes build/gpu-dry-run/page.md
	LD_PRELOAD=$(CURDIR)/$(DRY)/no_gpu.so LD_LIBRARY_PATH=$(CURDIR)/$(DRY) PYTHONPATH=src:benchmarks HF_HUB_OFFLINE=1 \
		$(DRY)/env/bin/python benchmarks/gpu_dry_run.py --output $(DRY)/page.md

$(DRY)/.ready: $(READY) benchmarks/no_gpu.c
	mkdir -p $(DRY)
	$(CC) -w -shared -fPIC -o $(DRY)/no_gpu.so benchmarks/no_gpu.c
	$(CC) -w -shared -fPIC -DDRIVER -Wl,-soname,libcuda.so.1 -o $(DRY)/libcuda.so.1 benchmarks/no_gpu.c
	$(PYTHON) -m venv $(DRY)/env
	$(DRY)/env/bin/python -m pip install --quiet 'torch===$(CUDA_TORCH)'
	# All else is the project's own environment's: this one comes first.
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), sep="\n")' >"$$($(DRY)/env/bin/python -c 'import site; print(site.getsitepackages()[0])')/project.pth"
	touch $@

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv build dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("leantune needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

$(READY_TO_BENCHMARK): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev,benchmark]'
	touch $@
