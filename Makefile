# make demo | check | test | test-slow: each installs what it needs first, into .venv.
# Needed beforehand: Python >= 3.11 and make.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Torch is pinned to a version, not to a build. To choose between CPU and CUDA builds, pass the index that PyTorch's
# install page names for it; empty takes what pip finds by itself.
TORCH_INDEX ?=
EXTRAS := dev,export,train,metrics,docs
DEMO_ARGS ?=
BENCH_ARGS ?=
BENCH_OUT ?= runs/bench
TRAIN_CONFIG ?= configs/train/tiny.yaml
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup check format docs test test-slow coverage demo bench train model-card composition site clean

help:
	@echo "make demo       install, then run the whole pipeline on generated videos"
	@echo "make check      ruff, ruff format, mypy, import-linter"
	@echo "make test       the fast tests"
	@echo "make test-slow  kills, servers, long files"
	@echo "make coverage   the fast tests, and at least 90% of core and storage covered"
	@echo "make train      train the embedded default from nothing (TRAIN_CONFIG=...)"
	@echo "make model-card measure the embedded default again and write its model card"
	@echo "make composition  measure answers over long videos and write docs/composition.md"
	@echo "make bench      all benchmarks, and docs/benchmarks.md from them (BENCH_ARGS=--quick)"
	@echo "make format     ruff format and ruff's safe fixes"
	@echo "make site       the documentation as a site, in site/"
	@echo "make docs       write docs/catalog.md again from the tables' schemas"
	@echo "make clean      remove caches and build outputs (.venv stays)"

setup: $(INSTALLED)

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "setup: no Python >= 3.11 found (looked for python3, python3.11 ... python3.14);" \
			"install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
		sys.exit(0 if v >= (3, 11) else "setup: Python %d.%d is too old (needs >= 3.11); make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)

# Torch goes first and alone, so that only its own page is asked of TORCH_INDEX, and only once.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@start=$$(date +%s); \
	echo "setup: installing the pinned packages into $(VENV) (the first time takes minutes)"; \
	if [ -n "$(TORCH_INDEX)" ]; then \
		$(BIN)/python -m pip install --quiet --no-deps --retries 0 --timeout 20 \
			--extra-index-url "$(TORCH_INDEX)" -c constraints.txt torch || exit 1; \
	fi; \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]" || exit 1; \
	touch $@; \
	echo "setup: $$(( $$(date +%s) - start )) s"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python -m storage.document_schemas docs/catalog.md

test: setup
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

# pytest ends with 5 when a marker selects nothing: said aloud, and no failure.
test-slow: setup
	@status=0; $(BIN)/python -m pytest -m slow $(PYTEST_ARGS) || status=$$?; \
	if [ $$status -eq 5 ]; then echo "test-slow: no test is marked slow"; else exit $$status; fi

coverage: setup
	$(BIN)/python -m pytest -m "not slow" --cov --cov-report=term --cov-fail-under=90 $(PYTEST_ARGS)

demo: setup
	@start=$$(date +%s); $(BIN)/video2lora demo $(DEMO_ARGS) || exit $$?; \
	echo "demo: $$(( $$(date +%s) - start )) s after installation"

bench: setup
	$(BIN)/video2lora bench --out $(BENCH_OUT) $(BENCH_ARGS)
	@case "$(BENCH_ARGS)" in \
	*--quick*) echo "bench: small shapes; the page stays as it is" ;; \
	*) $(BIN)/python -m benchmarks.page $(BENCH_OUT) ;; esac

train: setup
	$(BIN)/video2lora train --config $(TRAIN_CONFIG)

model-card: setup
	$(BIN)/python -m tasks.model_card --model tiny

composition: setup
	$(BIN)/python -m tasks.composition_study --model tiny

# The variable hushes an advertisement for another generator.
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf build dist site htmlcov .coverage .coverage.* coverage.xml *.egg-info \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
