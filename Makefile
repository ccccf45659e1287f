# `make demo` sets everything up and runs the main job, `make test` sets everything up and runs the tests.
PY    ?= python3
# One pinned version, so that pip can take the CPU build where one is on offer. For another build, say so:
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
JOBS  ?= 2
N     ?=
BIN   := .venv/bin
PIP   := $(BIN)/pip install -q --disable-pip-version-check
META  := settings.ini setup.py pyproject.toml

.PHONY: demo test test-all prepare docs clean
demo: .venv/.core          # runs/demo/report.html
	$(BIN)/aligners demo $(if $(N),--n $(N))

# one thread a process, as several run at once; no hub, no display
test test-all docs prepare: export OMP_NUM_THREADS = 1
test test-all docs prepare: export HF_HUB_OFFLINE = 1
test test-all docs prepare: export MPLBACKEND = agg
test: .venv/.dev           # everything that takes no longer than minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=5 -m "not slow"

test-all: .venv/.dev       # with repeated kills and the wheel in an empty environment
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10

prepare: .venv/.dev        # after editing notebooks: modules, clean notebooks, README.md
	$(BIN)/nbdev-export && $(BIN)/nbdev-clean && $(BIN)/python docs/readme.py

docs: .venv/.docs          # the site from the notebooks' outputs, in _docs/index.html
	rm -rf _docs _proc && $(BIN)/python docs/nbsite.py nbs _proc && $(BIN)/sphinx-build -q -W --keep-going -c docs -b html _proc _docs

.venv/.core: $(META)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, `$(PY)` is %d.%d: type  make PY=python3.11" % sys.version_info[:2])'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PY) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) -e .
	touch $@

.venv/.dev: .venv/.core
	$(PIP) -e '.[dev]'
	touch $@

.venv/.docs: .venv/.core
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf .venv .cache _docs _proc jupyter_execute build dist *.egg-info
