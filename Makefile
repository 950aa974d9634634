# Everything the project does, by name: `make help`. Plain GNU make (3.81, as on macOS, or newer) and Python are all it needs.

PROFILE := demo
PYTHON :=
BASE :=
NPROC :=

PROFILES := $(sort $(patsubst profiles/%.yaml,%,$(wildcard profiles/*.yaml)))
ifneq ($(words $(PROFILE)) $(words $(filter $(PROFILES),$(PROFILE))),1 1)
$(error no profile '$(PROFILE)' in profiles/. PROFILE may be one of: $(PROFILES))
endif

ifdef PYTHON
PY := $(PYTHON)
READY := check-python
else
PY := .venv/bin/python
READY := .venv/.installed
endif

# NPROC processes train and scan together, each with its share of the cores; for several machines, start torchrun by hand with its own options.
ifneq ($(NPROC),)
ifneq ($(shell [ "$(NPROC)" -ge 1 ] 2>/dev/null && echo yes),yes)
$(error NPROC=$(NPROC): a number of processes, 1 or more)
endif
ZFNET = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(( ($$(getconf _NPROCESSORS_ONLN) + $(NPROC) - 1) / $(NPROC) ))} \
	$(PY) -m torch.distributed.run --standalone --nproc-per-node $(NPROC) -m zfnet
else
ZFNET = $(PY) -m zfnet
endif

RUNS := runs/$(PROFILE)
FIGURES := Figures/$(PROFILE)
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
SOURCES := pyproject.toml $(wildcard src/zfnet/*.py src/zfnet/*/*.py src/zfnet/*/*/*.py)
STEMS := $(shell cat $(RUNS)/.notebooks 2>/dev/null)
EXECUTED := $(STEMS:%=$(RUNS)/notebooks/%.ipynb)
# What all notebooks rest on, and none of them writes.
MADE := data weights scan

# A figure that somebody deleted is drawn again.
LOST := $(foreach stem,$(STEMS),$(if $(wildcard $(FIGURES)/$(stem).png),,$(RUNS)/notebooks/$(stem).ipynb))

# This checkout's package, tools and benchmarks come first, also after the folder was moved or copied together with its .venv.
ifeq ($(findstring $(CURDIR)/src:$(CURDIR),$(PYTHONPATH)),)
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
endif
export PYTHONUNBUFFERED := 1
# The kernel named python3 is the one of the environment in use, and the notebook, not the caller, decides how to draw.
export JUPYTER_PREFER_ENV_PATH := 1
unexport MPLBACKEND

# Notebooks run two at a time, or as many as -jN says, each with its share of the cores; everything else goes step by step.
ifneq ($(MAKECMDGOALS),drawn)
.NOTPARALLEL:
endif
CORES := $(shell getconf _NPROCESSORS_ONLN)
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),$(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),$(CORES)),$(if $(filter-out 1,$(CORES)),2,1))
SHARE = $(if $(filter-out 1,$(JOBS)),export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(( ($(CORES) + $(JOBS) - 1) / $(JOBS) ))};)
LONGEST := 14_ablation
PAPERMILL = $(PY) -m papermill --cwd notebooks -k python3 --language python --no-progress-bar --log-level WARNING

# Tests run in as many processes as there are cores, four at most.
SPLIT := n=$$(($(CORES) < 4 ? $(CORES) : 4)); OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(( ($(CORES) + n - 1) / n ))}

.DELETE_ON_ERROR:
.PHONY: help env figures gallery live check test bench lab train scan notebooks lock clean drawn style check-python FORCE

help: ## this list (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PROFILE=name    one of these, demo unless said otherwise:"
	@for name in $(PROFILES); do \
	  printf '    %-22s%s\n' $$name "$$(sed -n 's/^title: *//p' profiles/$$name.yaml | tr -d '"')"; done
	@echo "  PYTHON=path     use that Python (of an active environment, say) as it is; nothing is installed"
	@echo "  BASE=path       the Python to build .venv from, when several are there"
	@echo "  NPROC=n         train and scan with n processes: one for each GPU"
	@echo "  -jN             run N notebooks at a time instead of two"

env: $(READY) ## set up .venv with the exact versions of requirements.txt
	@$(PY) -c 'import platform, sys; print("Ready:", sys.executable, "with Python", platform.python_version())'

figures: $(RUNS)/.scanned $(RUNS)/.notebooks ## train, scan and run the notebooks of PROFILE; the figures go to Figures/PROFILE/
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) JOBS=$(JOBS) drawn

gallery: $(RUNS)/.scanned ## a static site of all feature maps of PROFILE: runs/PROFILE/gallery/index.html; with ZIP=1 also packed
	$(PY) -m zfnet gallery $(PROFILE) $(if $(ZIP),--zip)

live: $(READY) ## one page that takes nets apart in the browser, without Python: runs/live/index.html
	$(PY) -m zfnet live

check: style ## within a minute: ruff, and the tests that are quick
	$(SPLIT) $(PY) -m pytest -q -n $$n --dist worksteal -m "not slow"

test: style ## ruff, pytest, then every notebook through nbval
	$(SPLIT) $(PY) -m pytest -q -n $$n --dist worksteal
	@$(MAKE) --no-print-directory runs/demo/.scanned PROFILE=demo
	$(SPLIT) ZFNET_FIGURES="$(CURDIR)/runs/demo/tested" $(PY) -m pytest -q -n $$n --dist loadscope --no-loadscope-reorder --nbval-lax --nbval-current-env --nbval-cell-timeout=1800 \
	  --nbval-sanitize-with tests/nbval.cfg $(filter %/$(LONGEST).ipynb,$(NOTEBOOKS)) $(filter-out %/$(LONGEST).ipynb,$(NOTEBOOKS))

style: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: $(READY) ## time everything beside its peers (12 minutes): a table, and benchmarks/results.json
	$(PY) -m benchmarks.run

lab: $(READY) ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab notebooks

train: $(READY) ## train the net of PROFILE, unless its weights are there and current
	$(ZFNET) train $(PROFILE)

scan: train ## find the strongest activations of every feature map, unless they are there and current
	$(ZFNET) scan $(PROFILE)

notebooks: runs/demo/.scanned ## run the notebooks at their defaults and keep them, outputs and all, as they are committed
	@mkdir -p runs/demo/notebooks
	@set -e; $(SHARE) for notebook in notebooks/*.ipynb; do \
	  echo "$$notebook: running"; \
	  new="runs/demo/notebooks/$$(basename "$$notebook" .ipynb).new.ipynb"; \
	  $(PAPERMILL) "$$notebook" "$$new"; \
	  $(PY) -m tools.clean_notebook "$$new"; \
	  mv "$$new" "$$notebook"; \
	done

lock: ## resolve requirements.txt anew from pyproject.toml, keeping its versions (with UPGRADE=1: the newest); needs uv
	@command -v uv >/dev/null || { echo "make lock needs uv (pip install uv)" >&2; exit 1; }
	uv pip compile pyproject.toml --extra notebooks --extra live --extra test --universal --python-version 3.11 --fork-strategy fewest --quiet \
	  $(if $(UPGRADE),--upgrade) --no-annotate --custom-compile-command "make lock" --output-file requirements.txt
	@echo "Now bring environment.yml in line; tests/test_environment.py compares them."

clean: ## remove runs/PROFILE and the tools' caches; Figures/, data/ and .venv/ stay
	@echo "Removing $(RUNS)/ (weights, scans, executed notebooks) and the tools' caches"
	@rm -rf $(RUNS) .pytest_cache .ruff_cache .hypothesis build
	@find src tests notebooks -name __pycache__ -o -name .ipynb_checkpoints 2>/dev/null | xargs rm -rf

# --- The environment -------------------------------------------------------------------------------------------------

# PYTHONPATH is kept from pip, which would take the sources for an installed package.
PIP := env -u PYTHONPATH .venv/bin/python -m pip install --disable-pip-version-check
NEW_ENOUGH := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
VERSION := import sys; print(sys.version)

# SqueezeNet's weights: nothing else needs them, so that the rest does without should the index lose them.
IMAGENET := $(shell sed -n 's/^imagenet = \["\(.*\)"\]$$/\1/p' pyproject.toml)

# BASE asks for another Python than the one .venv has: build it anew.
ifdef BASE
ifneq ($(shell $(BASE) -c '$(VERSION)' 2>&1),$(shell .venv/bin/python -c '$(VERSION)' 2>/dev/null))
.venv/.installed: FORCE
REBUILD := yes
endif
endif

# .venv/.unfinished marks an installation under way: one that was cut short is started over, not trusted.
.venv/.installed: requirements.txt pyproject.toml
	@if [ -n "$(REBUILD)" ] || [ -e .venv/.unfinished ] || ! .venv/bin/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null; then \
	  for base in $(or $(BASE),python3 python3.12 python3.11 python3.13 python); do \
	    "$$base" -c '$(NEW_ENOUGH)' 2>/dev/null && break; base=; \
	  done; \
	  if [ -z "$$base" ]; then \
	    echo "Python 3.11 or newer with the modules venv and ensurepip is needed; found: $$($(or $(BASE),python3) --version 2>&1)." >&2; \
	    echo "Install one (on Debian and Ubuntu: python3 and python3-venv) or name one: make env BASE=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "Building .venv with $$("$$base" --version) ($$(command -v "$$base"))"; \
	  rm -rf .venv && mkdir .venv && touch .venv/.unfinished && "$$base" -m venv .venv || exit 1; \
	fi
	@touch .venv/.unfinished
	@echo "Installing the $$(grep -c == requirements.txt) pinned packages of requirements.txt: several minutes and 6 GB the first time"
	@$(PIP) $$([ -t 1 ] || echo -q) -r requirements.txt
	@$(PIP) -q --no-deps --no-build-isolation -e .
	@$(PIP) -q --no-deps --no-build-isolation '$(IMAGENET)' || \
	  echo "$(IMAGENET) is not to be had: without SqueezeNet's ImageNet weights the default net is the ZFNet in weights/"
	@mv .venv/.unfinished .venv/.installed

check-python:
	@$(PY) tools/check_environment.py

# --- From profile to figures -----------------------------------------------------------------------------------------
# The steps know by themselves what is current; the marks .trained and .scanned spare starting them.

$(PROFILES:%=runs/%/.trained): runs/%/.trained: profiles/%.yaml $(SOURCES) | $(READY)
	$(ZFNET) train $*
	@mkdir -p $(@D) && touch $@

$(PROFILES:%=runs/%/.scanned): runs/%/.scanned: runs/%/.trained
	$(ZFNET) scan $*
	@touch $@

# Which notebooks a profile has is known only to the package, hence the second make in `figures`.
$(RUNS)/.notebooks: notebooks/. profiles/$(PROFILE).yaml $(SOURCES) | $(READY)
	@mkdir -p $(@D)
	@$(PY) -m zfnet notebooks $(PROFILE) > $@.new
	@mv $@.new $@

# The main figures, 00 to 08, come first; then the longest, where another runs beside it.
MAIN := $(foreach n,0 1 2 3 4 5 6 7 8,$(filter $(RUNS)/notebooks/0$(n)_%,$(EXECUTED)))
drawn: $(MAIN) $(if $(filter-out 1,$(JOBS)),$(filter %/$(LONGEST).ipynb,$(EXECUTED))) $(EXECUTED)
	@echo "$(FIGURES)/: $(words $(STEMS)) figures, up to date"

$(EXECUTED): $(RUNS)/notebooks/%.ipynb: notebooks/%.ipynb $(RUNS)/.scanned $(wildcard $(MADE:%=$(RUNS)/%.safetensors))
	@mkdir -p $(@D)
	@echo "notebooks/$*.ipynb: running"
	@$(SHARE) $(PAPERMILL) -p profile $(PROFILE) $< $(@D)/$*.unfinished.ipynb > $(@D)/$*.log 2>&1 || \
	  { tail -n 30 $(@D)/$*.log; echo "notebooks/$*.ipynb failed; all it said: $(@D)/$*.log"; exit 1; } >&2
	@[ -e $(FIGURES)/$*.png ] || { echo "notebooks/$*.ipynb ran, but there is no $(FIGURES)/$*.png" >&2; exit 1; }
	@mv $(@D)/$*.unfinished.ipynb $@
	@echo "$(FIGURES)/$*.png: done"

$(LOST): FORCE
