# `make demo` and `make test` are all the set-up there is: both make the environment when it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help demo test fuzz test-cluster test-interop peers check docs dist format clean

help:
	@echo "make demo         run the main job on a synthetic contaminated set (a few minutes)"
	@echo "make test         run the tests, in JOBS=2 processes"
	@echo "make test-cluster jobs on a real Ray head, Slurm and deaths simulated (about twenty minutes)"
	@echo "make test-interop anomalib trained on an exported set, in an environment of its own (downloads it)"
	@echo "make peers        speed beside anomalib, faiss and ADEval, in an environment of its own: PHOTOS=FOLDER"
	@echo "make check        lint, format check, strict types"
	@echo "make docs         build the documentation site into build/site, strictly"
	@echo "make dist         build and check sdist and wheel, and try the wheel in a clean environment"
	@echo "make format       let ruff rewrite the sources"
	@echo "make clean        remove the environments and the demo run, and nothing of yours in runs/"
	@echo "make fuzz         feed damaged files to everything that reads files, for minutes"

# --prefer-binary: never compile a dependency.  The second line of defence against another torch is
# constraints.txt, which pins every version the tests ran with.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "llb_ray needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --prefer-binary --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/llb-ray synth runs/demo/photos --category weave --alpha 0.2 --seed 0 --size 224
	$(BIN)/llb-ray run --config configs/demo.yaml --data runs/demo/photos/weave --out runs/demo/run
	$(BIN)/llb-ray audit runs/demo/run
	$(BIN)/llb-ray predict runs/demo/run --data runs/demo/photos/weave/test --out runs/demo/predictions
	$(BIN)/python benchmarks/demo_filters.py --out runs/demo/filters
	@echo
	@echo "Open this in a browser: $(CURDIR)/runs/demo/run/report.html"

# Each process takes whole files, whose tests share what is trained, in the order of tests/conftest.py.
JOBS ?= 2
test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The same tests as in `make test`, with more examples: FUZZ=20000 takes about half an hour.
FUZZ ?= 2000
fuzz: $(READY)
	FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/fuzz --timeout 0

# Its own processes, ports and home: a Ray that runs here already is left alone.
test-cluster: $(READY)
	$(BIN)/python -m pytest -m cluster

# anomalib 2.7 joins paths in a way that pandas 3 refuses; its torch is not ours, so it has an environment to itself.
INTEROP := runs/interop
$(INTEROP)/.ready:
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --prefer-binary 'anomalib==2.7.0' 'pandas<3' torch==2.9.1 torchvision==0.24.1
	@touch $@

test-interop: $(READY) $(INTEROP)/.ready
	INTEROP_PYTHON=$(abspath $(INTEROP)/bin/python) $(BIN)/python -m pytest -m interop -s

# The peers, installed apart, on the torch and timm of this repository: the same kernels for everybody.
PEERS := runs/peers-env
$(PEERS)/.ready: $(READY)
	$(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > runs/repository.pth
	mv runs/repository.pth $$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')
	$(PEERS)/bin/python -m pip install --quiet --prefer-binary 'anomalib==2.7.0' 'pandas<3' faiss-cpu adeval
	@touch $@

PHOTOS ?= runs/demo/photos/weave
peers: $(READY) $(PEERS)/.ready
	$(BIN)/python benchmarks/peers.py --data $(PHOTOS) --out runs/peers --peers $(PEERS)/bin/python

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Strict: a link that leads nowhere, a page without a place and a name that cannot be resolved are errors.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site
	@echo "open build/site/index.html"

# The clean environment has the wheel and what it needs, with the tested versions, and nothing of this checkout.
CLEAN := build/dist-env
dist: $(READY)
	rm -rf dist $(CLEAN) build/dist-run
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(CLEAN)
	$(CLEAN)/bin/python -m pip install --quiet --prefer-binary --constraint constraints.txt dist/*.whl
	mkdir -p build/dist-run
	cd build/dist-run && ../dist-env/bin/llb-ray --help >/dev/null && ../dist-env/bin/llb-ray --version
	cd build/dist-run && ../dist-env/bin/llb-ray synth photos --category weave --size 64 && \
	  ../dist-env/bin/llb-ray run --data photos/weave --out run --executor serial \
	    --set members.count=2 --set detector.image_size_px=64 --set detector.coreset_size=40 && \
	  ../dist-env/bin/llb-ray audit run
	rm -rf $(CLEAN) build/dist-run

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Only what these targets made: runs/ is where people put results, and VENV may name a folder of theirs.
clean:
	@test ! -e $(VENV) || test -f $(READY) || { echo "$(VENV) was not made by make; remove it yourself" >&2; exit 1; }
	rm -rf $(VENV) runs/demo $(INTEROP) $(PEERS) runs/peers build dist
	@rmdir runs 2>/dev/null || true
