.DEFAULT_GOAL := help
.PHONY: help setup lock resolve demo test lint format golden export verify report ci ci-export ci-verify ci-report ci-summary ci-device docs pages bench speed clean

PYTHON    ?= python3
HERE      := $(dir $(lastword $(MAKEFILE_LIST)))
VENV      := $(HERE).venv
BIN       := $(VENV)/bin
STAMP     := $(VENV)/.installed

MODEL     ?=
TARGETS   ?= openvino onnxruntime
PRECISION ?= fp32
OUT       ?= out
EXTRAS    ?= dev
TORCH_INDEX ?=
HASHES    ?=
REVISION  ?=
OPTIONS   ?=
FILE      ?=
PIP       := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export BIN

help:  ## what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: MODEL=folder-or-hub-id TARGETS=\"openvino onnxruntime\" PRECISION=fp32 OUT=out; for ci also REVISION OPTIONS"
	@echo "  The first time: TORCH_INDEX=https://download.pytorch.org/whl/cpu for a torch without CUDA, HASHES=1 to check every file's sha256"

setup: $(STAMP)  ## a virtual environment with the exact versions of constraints.txt

$(STAMP): $(HERE)pyproject.toml $(HERE)constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("goldfold needs Python 3.11, 3.12 or 3.13, not " + sys.version.split()[0]) if not (3, 11) <= sys.version_info < (3, 14) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (a few minutes; on Linux torch brings about 2.5 GB of CUDA, \`make help\` says how to do without) ..."
ifeq ($(HASHES),)
	@$(PIP) --constraint $(HERE)constraints.txt $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') torch
	@$(PIP) --constraint $(HERE)constraints.txt --editable '$(HERE).[$(EXTRAS)]'
else
	@$(PIP) --require-hashes --no-deps --requirement $(HERE)constraints-hashed.txt
	@$(PIP) --no-deps --no-build-isolation --editable '$(HERE).'
	@$(BIN)/python -m pip --disable-pip-version-check check
endif
	@touch $@

lock: $(STAMP)  ## work out constraints.txt and constraints-hashed.txt anew; .ci/lock --upgrade takes the newest
	@$(HERE).ci/lock

resolve: $(STAMP)  ## check that every extra resolves from the ordinary index, for every platform
	@$(HERE).ci/resolve

demo: $(STAMP)  ## export a small real model for every target, verify it, and use it
	$(BIN)/goldfold demo --out demo

test: $(STAMP)  ## the tests
	$(BIN)/python -m pytest -n 2

lint: $(STAMP)  ## ruff and pyright
	@$(HERE).ci/house
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

ci: $(STAMP) need-model  ## what the workflow for users does: export MODEL, verify it anew, report
	@status=0; for step in ci-export ci-verify ci-report; do \
	  $(MAKE) --no-print-directory -f $(firstword $(MAKEFILE_LIST)) $$step || status=1; done; exit $$status

# With FILE, a goldfold.toml, one command exports, keeps, verifies and reports.
ci-export: $(STAMP) need-model
ifneq ($(FILE),)
	$(BIN)/goldfold ci --file '$(FILE)' --out '$(OUT)' $(OPTIONS)
else
	folder="$$($(HERE).ci/model '$(MODEL)' '$(REVISION)')" && $(BIN)/goldfold export "$$folder" \
	  $(foreach t,$(TARGETS),--target $(t)) $(foreach p,$(PRECISION),--precision $(p)) \
	  --out '$(OUT)' $(OPTIONS)
endif

ci-verify: $(STAMP)
	$(if $(FILE),@echo "$(FILE): every artifact is measured by its export",$(BIN)/goldfold verify '$(OUT)')

ci-report: $(STAMP)
	$(if $(FILE),@echo "$(FILE): the report is there",$(BIN)/goldfold report '$(OUT)')

ci-summary: $(STAMP)  ## OUT's verdict.md, where `goldfold ci` wrote one, on the run's own page
	@if [ -f '$(OUT)/verdict.md' ]; then cat '$(OUT)/verdict.md' >> "$${GITHUB_STEP_SUMMARY:-/dev/stdout}"; fi

ci-device: $(STAMP)  ## on a Mac or beside a GPU: run OUT's artifacts of TARGETS on the device itself
	$(BIN)/goldfold verify --require-run $(foreach t,$(TARGETS),$(wildcard $(OUT)/$(t)-*))
	$(BIN)/goldfold report '$(OUT)'

docs: $(STAMP)  ## build the site of docs/ into site/; strict, offline, every link checked
	@$(HERE).ci/house
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo site/index.html

pages: $(STAMP)  ## write docs/passes.md, docs/schema/ and, from a run of them all, docs/families.md
	$(BIN)/python -m goldfold.exporter.passes.reference_page > docs/passes.md
	$(BIN)/python -m goldfold.exporter.report.schemas docs/schema
	$(BIN)/python -m tests.families

bench: $(STAMP) need-model  ## what an export of MODEL costs, stage by stage
	$(BIN)/python -m benchmarks.export_cost $(MODEL)

speed: $(STAMP) need-model  ## OUT's OpenVINO artifact of MODEL against optimum-intel and sentence-transformers
	$(BIN)/python -m benchmarks.openvino_speed $(MODEL) --artifact $(OUT)/openvino-fp32 --picture docs/pictures/openvino_speed.png

clean:  ## remove what make made
	rm -rf $(VENV) demo out site .pytest_cache .ruff_cache .hypothesis *.egg-info

.PHONY: need-model
need-model:
	@test -n "$(MODEL)$(FILE)" || { echo "say which model: make ... MODEL=folder-or-hub-id"; exit 2; }
