# The commands of the README. `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
FEELPRINT := rust/target/release/feelprint
WHEEL := build/wheel
AUDIO_DIR ?=
# The library of the wheel is loaded by Python; without this, Cargo links it to one.
export PYO3_BUILD_EXTENSION_MODULE := 1

.PHONY: help setup corpora demo release map-bundle check test test-fast wheel survey clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

setup: $(VENV)/ready data/teacher/ready ## install the pinned Python environment, download the teacher

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -c "import torch, torchaudio, torchcodec, transformers, datasets, peft, evaluate"
	touch $@

data/teacher/ready: $(VENV)/ready
	$(BIN)/python -c "from pathlib import Path; from distill.teachers.musicnn import WHEEL; WHEEL.fetch(Path('data/teacher'))"
	touch $@

# The demo trains on a few small packages of free music, or on AUDIO_DIR=~/Music.
data/corpora/demo/data: $(VENV)/ready
ifeq ($(AUDIO_DIR),)
	$(BIN)/python -m datasets_scripts demo --out data/corpora/demo
else
	$(BIN)/python -m datasets_scripts folder --audio-dir "$(AUDIO_DIR)" --out data/corpora/demo
endif

$(FEELPRINT): $(shell find rust/src rust/models -type f) rust/Cargo.toml rust/Cargo.lock
	cd rust && cargo build --release --locked --workspace
	touch $@

corpora: setup ## build the corpora of configs/default.yaml: 6 GB to download, one to two hours
	$(BIN)/python -m datasets_scripts free --out data/corpora/free
	$(BIN)/python -m datasets_scripts styles --hours 9 --jobs 2 --out data/corpora/styles

demo: setup data/corpora/demo/data $(FEELPRINT) ## train on a small corpus, and print the nearest songs of one song
	$(BIN)/accelerate launch distill/run.py --config configs/demo.yaml
	$(BIN)/python -m datasets_scripts extract data/corpora/demo --out data/demo-songs
	@song="$$(find data/demo-songs -type f | sort | head -n 1)"; echo "near $$song:"; \
		$(FEELPRINT) similar "$$song" --in data/demo-songs --model runs/demo/feelprint.onnx

RUN ?= runs/default
release: setup ## copy the model of a run (RUN=runs/default) into the crate, and write its model card
	$(BIN)/python -m distill.reporting.publish $(RUN) --to feelprint/feelprint --dry-run --folder runs/release
	install -m 644 -t rust/models runs/release/feelprint.onnx runs/release/model.safetensors \
		runs/release/config.json
	install -m 644 runs/release/README.md model_card.md
	$(BIN)/python rust/tests/make_reference.py

map-bundle: ## build the JavaScript library in the page of the map, from its pinned npm packages
	cd rust/src/map/deck && npm ci --ignore-scripts --no-audit --no-fund && npm run build
	sha256sum rust/src/map/deck.min.js # NOTICE has it

check: setup ## check formatting, lint and types, Python and Rust
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd rust && cargo fmt --all --check
	cd rust && cargo clippy --release --locked --workspace --all-targets -- -D warnings

test: setup ## run every test, Python and Rust
	$(BIN)/python -m pytest
	cd rust && cargo test --release --locked --workspace

test-fast: setup ## run the tests that take seconds: Python without `slow`, and the crate's unit tests
	$(BIN)/python -m pytest -m "not slow"
	cd rust && cargo test --release --locked --workspace --lib --bins

$(WHEEL)/tools/ready: rust/python/requirements.lock
	$(PYTHON) -m venv $(WHEEL)/tools
	$(WHEEL)/tools/bin/python -m pip install --quiet --constraint $< maturin
	touch $@

wheel: $(WHEEL)/tools/ready $(FEELPRINT) ## build the Python wheel, install it in an empty environment, and run its tests
	rm -rf $(WHEEL)/dist
	cd rust && ../$(WHEEL)/tools/bin/maturin build --release --locked --out ../$(WHEEL)/dist
	$(PYTHON) -m venv --clear $(WHEEL)/empty
	$(WHEEL)/empty/bin/python -m pip install --quiet $(WHEEL)/dist/*.whl
	$(WHEEL)/empty/bin/python rust/python/tests/check_installed.py $(WHEEL)/dist/*.whl
	$(WHEEL)/empty/bin/python -m pip install --quiet --requirement rust/python/requirements.lock
	cd rust && ../$(WHEEL)/empty/bin/python -m mypy
	cd $(WHEEL) && empty/bin/python -m mypy.stubtest feelprint._feelprint
	$(WHEEL)/empty/bin/python -m pytest rust/python/tests

survey: setup $(if $(CORPUS),,data/corpora/demo/data) ## serve the survey for the demo corpus, or for CORPUS=folder
	$(BIN)/feelprint-survey --corpus $(or $(CORPUS),data/corpora/demo)

clean: ## remove the environment and the builds; keep corpora, caches and runs
	rm -rf $(VENV) rust/target build *.egg-info
