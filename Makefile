.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format golden export verify report docs bench speed clean

PYTHON    ?= python3
VENV      := .venv
BIN       := $(VENV)/bin
STAMP     := $(VENV)/.installed

MODEL     ?=
TARGETS   ?= openvino onnxruntime
PRECISION ?= fp32
OUT       ?= out

help:  ## what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: MODEL=folder-or-hub-id TARGETS=\"openvino onnxruntime\" PRECISION=fp32 OUT=out"

setup: $(STAMP)  ## a virtual environment with the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("goldfold needs Python 3.11, 3.12 or 3.13, not " + sys.version.split()[0]) if not (3, 11) <= sys.version_info < (3, 14) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## export a small real model for every target, verify it, and use it
	$(BIN)/goldfold demo --out demo

test: $(STAMP)  ## the tests
	$(BIN)/python -m pytest -n 2

lint: $(STAMP)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)  ## write the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(STAMP) need-model  ## make golden embeddings of MODEL
	$(BIN)/goldfold golden make $(MODEL)

export: $(STAMP) need-model  ## export MODEL to OUT for TARGETS in PRECISION, and verify it
	$(BIN)/goldfold export $(MODEL) $(foreach t,$(TARGETS),--target $(t)) $(foreach p,$(PRECISION),--precision $(p)) --out $(OUT)

verify: $(STAMP)  ## check every artifact in OUT again
	$(BIN)/goldfold verify $(OUT)

report: $(STAMP)  ## report.html, report.json and junit.xml of OUT, every artifact timed in turn
	$(BIN)/goldfold report $(OUT) --speed

docs: $(STAMP)  ## write docs/passes.md, docs/schema/ and, from a run of them all, docs/families.md
	$(BIN)/python -m exporter.lawbook > docs/passes.md
	$(BIN)/python -m exporter.schemas docs/schema
	$(BIN)/python -m tests.families

bench: $(STAMP) need-model  ## what an export of MODEL costs, stage by stage
	$(BIN)/python benchmarks/export_cost.py $(MODEL)

speed: $(STAMP) need-model  ## OUT's OpenVINO artifact of MODEL against optimum-intel and sentence-transformers
	$(BIN)/python benchmarks/openvino_speed.py $(MODEL) --artifact $(OUT)/openvino-fp32 --picture docs/pictures/openvino_speed.png

clean:  ## remove what make made
	rm -rf $(VENV) demo out .pytest_cache .ruff_cache .hypothesis *.egg-info

.PHONY: need-model
need-model:
	@test -n "$(MODEL)" || { echo "say which model: make ... MODEL=folder-or-hub-id"; exit 2; }
