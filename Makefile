# Two commands: `make train` and `make test`. Each makes the environment it needs first.

PYTHON ?= python3
CONFIG ?= synthetic
UTKFACE ?=
RUN := $(notdir $(basename $(CONFIG)))-$(shell date +%Y%m%d-%H%M%S)
WORKDIR ?= runs/$(RUN)

BIN := .venv/bin
CONFIG_FILE := $(if $(filter %.py,$(CONFIG)),$(CONFIG),experiments/configs/$(CONFIG).py)

# One prepared data set for each state of the image folder (names, sizes, dates): TFDS itself would reuse stale data.
ifeq ($(UTKFACE),)
IMAGE_SIZE ?= $(if $(filter bench,$(MAKECMDGOALS)),200,64)
IMAGES := data/synthetic-$(IMAGE_SIZE)
PREPARED := data/prepared-synthetic-$(IMAGE_SIZE)
else
IMAGES := $(if $(wildcard $(UTKFACE)/.),$(UTKFACE),$(patsubst %/,%,$(dir $(UTKFACE))))
PREPARED := data/prepared-$(firstword $(shell ls -lnR "$(IMAGES)" 2>/dev/null | cksum))
endif

.DEFAULT_GOAL := help
.PHONY: help train bench prepare check-arguments test test-all mutants lint docs clean

help: ## List the targets.
	@echo 'make train                     train, evaluate and predict on faces that the project draws'
	@echo 'make train UTKFACE=FOLDER      the same on real images: FOLDER contains UTKFace.tar.gz, crop_part1.tar.gz,'
	@echo '                               or the extracted images'
	@echo 'make train CONFIG=NAME         with experiments/configs/NAME.py, one of'
	@echo '                               $(filter-out __init__,$(notdir $(basename $(wildcard experiments/configs/*.py))))'
	@echo 'make train WORKDIR=FOLDER      where models, numbers and curves go (now: runs/CONFIG-DATE-TIME)'
	@echo 'make bench                     time the library against what it replaces: about ten minutes;'
	@echo '                               UTKFACE=FOLDER times it on real images, best of 200 px'
	@echo 'make test                      check style, types and imports; run the tests, but for the slow ones'
	@echo 'make test-all                  the same with the slow ones'
	@echo 'make mutants PACKAGE=NAME      list the small faults that the tests of a package do not notice'
	@echo 'make lint                      check style, types and imports only'
	@echo 'make docs                      write the API reference from the docstrings: docs/api/index.html'
	@echo 'make clean                     remove the environment and the prepared data; runs/ stays'
	@echo
	@echo 'PYTHON=python3.12 chooses the Python (3.11 to 3.13) that the environment is made with.'

train: prepare
	$(BIN)/python -m experiments.train --config=$(CONFIG_FILE) --workdir=$(WORKDIR) --data_dir=$(PREPARED) || { status=$$?; \
	  [ $$status -ne 75 ] || echo 'To resume: make train WORKDIR=$(WORKDIR) CONFIG=$(CONFIG)$(if $(UTKFACE), UTKFACE=$(UTKFACE))' >&2; exit $$status; }

# Benchmarks of a few minutes together, one after the other; numbers as JSON in runs/bench/.
BENCHMARKS := input_pipeline generator augmentation joint_step
bench: prepare $(BIN)/.test
	@for name in $(BENCHMARKS); do echo; echo "== $$name"; \
	  $(BIN)/python -m benchmarks.$$name --data_dir=$(PREPARED) --out=runs/bench/$$name.json || exit 1; done

prepare: check-arguments $(BIN)/.train
ifeq ($(UTKFACE),)
	@test -e $(IMAGES) || { rm -rf $(IMAGES).part && \
	  $(BIN)/python -m agegender.synthetic --out=$(IMAGES).part/UTKFace --count=2000 --size=$(IMAGE_SIZE) && mv $(IMAGES).part $(IMAGES); }
endif
	@mkdir -p data && echo 'Preparing the images in $(PREPARED)'
	@(cd datasets && ../$(BIN)/tfds build utkface --manual_dir="$(abspath $(IMAGES))" --data_dir=../$(PREPARED)) \
	  >$(PREPARED).log 2>&1 || { cat $(PREPARED).log >&2; exit 1; }
	@sed -n '/ files seen, /,$$p' $(PREPARED).log

# Before the environment, which takes minutes: a wrong argument should be an error at once.
check-arguments:
	@test "$(words $(UTKFACE))" -le 1 -a "$(words $(WORKDIR))" -eq 1 || { echo "make takes no path with a blank in it. Received: UTKFACE=$(UTKFACE) WORKDIR=$(WORKDIR)" >&2; exit 2; }
	@test -n "$(UTKFACE)" -o "$(origin UTKFACE)" = file || { echo "UTKFACE is empty. Give the folder of the archives or of the images, or leave it out." >&2; exit 2; }
	@test -f $(CONFIG_FILE) || { echo "There is no config $(CONFIG_FILE). 'make help' lists them." >&2; exit 2; }
	@test -z "$(UTKFACE)" -o -e "$(UTKFACE)" || { echo "UTKFACE=$(UTKFACE) does not exist. Give the folder of the archives or of the images." >&2; exit 2; }

PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m ''

# Which small faults do the tests of a package not notice? docs/measurements/mutants.md
PACKAGE ?= evaluation
SAMPLE ?= 100
mutants: $(BIN)/.test
	$(BIN)/python tests/mutants.py $(PACKAGE) --sample=$(SAMPLE)

lint: $(BIN)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

docs: $(BIN)/.docs
	rm -rf docs/api
	$(BIN)/python -W error docs/build.py reference

clean: ## Remove what a command makes again.
	rm -rf .venv data build dist docs/api *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version). Give one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv

# One stamp for each set of extras, made again when setup.cfg changes.
$(BIN)/.train: setup.cfg | $(BIN)/python
	@echo 'Installing TensorFlow and more, 3 GB on the disk: one minute to five.'
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[train]'
	@touch $@

$(BIN)/.test: setup.cfg | $(BIN)/python
	@echo 'Installing TensorFlow and more, 4 GB on the disk: some minutes.'
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[train,test]'
	@touch $@ $(BIN)/.train

$(BIN)/.docs: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[docs]'
	@touch $@
