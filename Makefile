# Everything runs in .venv, which is filled from requirements.lock. Needed on the machine: Python 3.11, pip and make.
PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-thorough lint docs docs-serve notebooks savedmodels bench bench-quality bench-quality-small bench-published bench-ablations bench-negatives bench-sequences bench-scaling lightgcn clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' Makefile

venv: .venv/filled  ## make .venv from requirements.lock, with the csmf-tf command

.venv/filled: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 was not found. Install it, or name it: make venv PYTHON=path"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Each log has a folder of its own, in which a killed demo goes on.
OUT ?= build/demo$(if $(DATA),-$(firstword $(subst ., ,$(notdir $(DATA)))))

demo: venv  ## run the cascade on a simulated log, or on DATA=path; results in OUT, default build/demo
	$(BIN)/csmf-tf demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

lint: venv  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint  ## lint, then all tests, docstring examples, notebooks and documents
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-thorough: lint  ## the further cases that `make test` leaves out, before a release
	$(BIN)/python -m pytest -n 2 --dist loadfile -m thorough

docs: venv  ## build the site of the documents; it begins at build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: venv  ## the same on http://127.0.0.1:8000, made anew when a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

notebooks: venv  ## run the notebooks of colab/ and keep their outputs; NAME=2_idea for one
	$(BIN)/python colab/execute.py $(NAME)

savedmodels: venv  ## train and export the models of savedmodels/ anew
	$(BIN)/python savedmodels/build.py

bench: venv  ## run every benchmark, one after the other
	@for bench in benchmarks/*.py; do echo "== $$bench"; $(BIN)/python "$$bench" || exit 1; done

bench-quality: venv  ## CSMF beside every alternative, 3 seeds, hours; killed, it goes on
	$(BIN)/python benchmarks/quality/run.py

bench-quality-small: venv  ## the same in minutes: one log, one seed, few epochs
	$(BIN)/python benchmarks/quality/run.py --small

bench-published: venv  ## CSMF beside a few peers on a published test file, 3 seeds, hours
	$(BIN)/python benchmarks/quality/run.py --published

bench-negatives: venv  ## kinds of negatives, 3 seeds, three logs of one objective
	$(BIN)/python benchmarks/quality/run.py --negatives

bench-sequences: venv  ## HeterRec beside sequential recommenders, 3 seeds, logs with times, hours
	$(BIN)/python benchmarks/quality/run.py --sequences

bench-scaling: venv  ## HeterRec by depth and width, one seed, hours
	$(BIN)/python benchmarks/quality/run.py --scaling

bench-ablations: venv  ## variants of CSMF, one log, one seed
	$(BIN)/python benchmarks/quality/run.py --ablations

# The CPU build of torch is not on PyPI.
TORCH ?= https://download.pytorch.org/whl/cpu

lightgcn: .venv-lightgcn/filled  ## make .venv-lightgcn, for lightgcn_union of the quality benchmark

.venv-lightgcn/filled: benchmarks/quality/lightgcn.txt
	$(PYTHON) -m venv .venv-lightgcn
	.venv-lightgcn/bin/python -m pip install --no-deps --extra-index-url $(TORCH) $$(grep ^torch $<)
	.venv-lightgcn/bin/python -m pip install --requirement $<
	@touch $@

clean:  ## remove what was built; keeps .venv
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find csmf_tf tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
