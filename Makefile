# make demo and make test do all the set-up they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help env demo demo-cls test test-fast gpu-check gain cost docs lint clean
VENV ?= $(or $(KD_MM_VENV),.venv)
PY := $(VENV)/bin/python
ARGS ?=
# a process a core; neighbours stay together (they share what they build), to near the end
PYTEST := $(PY) -m pytest -q -n auto --maxprocesses 4 --dist worksteal
export KD_MM_VENV := $(VENV)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

env:  ## make .venv with the tested environment (quick when it is there)
	@tools/setup_env.sh

demo: env  ## train a small detector alone and distilled, compare (6 minutes on 2 cores)
	@$(PY) tools/demo.py $(ARGS)

demo-cls: env  ## the same with classifiers of handwritten digits (under 2 minutes)
	@$(PY) tools/demo_cls.py $(ARGS)

test: env  ## run the tests (all but those that need a GPU)
	@$(PYTEST) -m "not gpu" --durations=10 $(ARGS)

test-fast: env  ## run the tests that take no more than a few seconds each
	@$(PYTEST) -m "not gpu and not slow and not dist" $(ARGS)

gpu-check: env  ## on a GPU: its tests, then what every method costs there (8 minutes)
	@$(PY) -m pytest -v --tb=short -m gpu $(ARGS)
	@$(PY) benchmarks/cost.py --device cuda --repeats 7

gain: env  ## what distillation gains: docs/results (what is there already is kept; hours)
	@$(PY) benchmarks/gain.py digits $(ARGS)
	@$(PY) benchmarks/gain.py digits-cls $(ARGS)

cost: env  ## what it costs: docs/results/cost.md (an hour on a machine that does nothing else)
	@$(PY) benchmarks/cost.py
	@$(PY) benchmarks/cost_profile.py
	@$(PY) benchmarks/fast_teacher.py
	@$(PY) benchmarks/cost_growth.py

docs: env  ## build the site in site/, warnings are errors (a few seconds)
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "site/index.html is the start: $(PY) -m http.server -d site"

lint: env  ## ruff, codespell and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m codespell_lib
	@$(PY) -m mypy

clean:  ## remove what runs and builds leave behind (.venv and data stay)
	rm -rf work_dirs build dist site kd_mm.egg-info .pytest_cache .ruff_cache .mypy_cache
	find kd_mm tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
