# What a person does with a clone. All that is needed is make and Python 3.11 or newer: the first target that needs
# them puts the project and its tools into .venv, once, and again when pyproject.toml has changed.
#
#   PYTHON=python3.13          the interpreter that .venv is made with
#   BIND=0.0.0.0 PORT=9000     where `make demo` listens
#   SECONDS=600                how long `make fuzz` runs
#   JOBS=3                     how many processes `make test` shares the test files between; 0 is none
#   ARGS="-k name -x"          handed to pytest by `make test` and `make test-slow`, and to the bench by `make bench`
#   REALTIME_MOVES=4711        when sessions move in the tests of the protocol: a seed, or `random`
#   ARGS="S1 S5 --rounds 5 --report docs/bench"   two scenarios of the bench; without ARGS all, in about two hours
#   LOWEST="tests/process/test_tls.py"   what `make test-lowest` runs
#   CENTRIFUGO=latest          the version that `make bench` builds, where Go is found

.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
BIND ?= 127.0.0.1
PORT ?= 8000
ARGS ?=
JOBS ?= 3
SECONDS ?= 60
CENTRIFUGO ?= v6.9.1

# Units, and a test of each kind: every kind of connection (in the first file), sessions, a reload, Redis.
LOWEST ?= tests/realtime tests/sticky tests/test_architecture.py tests/process/test_limits.py \
	tests/process/test_session.py::test_a_page_and_its_websocket_meet_the_same_worker \
	tests/process/test_supervision.py::test_a_reload_replaces_every_worker_and_serves_on \
	tests/process/test_api.py::test_a_broadcast_and_a_batch

.PHONY: help demo test test-slow test-lowest lint dist bench fuzz screenshots clean

help:  ## show this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1=\2/p' Makefile | awk -F= '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo; sed -nE 's/^#   ([A-Z]+=.*)/  \1/p' Makefile

$(READY): pyproject.toml scripts/venv.sh
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV)

# Each browser has a sticky id of its own, in a cookie. So two browsers of one machine meet two workers; by their address
# they would meet the same.
demo: $(VENV)-demo/.installed  ## serve the chat of examples/chat on four workers
	@exec $(VENV)-demo/bin/realtime serve --workers 4 --sticky session --bind "$(BIND):$(PORT)" examples/chat/app.py

$(VENV)-demo/.installed: pyproject.toml scripts/venv.sh
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV)-demo --no-groups

# The packages of a package-lock.json, from npm. npm writes the target, so that they are installed once. Where npm is
# missing, or cannot reach its registry, the tests that need them are skipped and say so.
%/node_modules/.package-lock.json: %/package-lock.json
	@if ! command -v npm >/dev/null; then echo "npm was not found: tests that need the packages of $* are skipped"; \
	elif echo "installing the npm packages of $*" && npm --prefix $* ci --no-audit --no-fund --silent; then touch $@; \
	else echo "npm could not install the packages of $*: the tests that need them are skipped"; fi

test: $(READY) tests/sdk/node_modules/.package-lock.json  ## run the tests; what needs Redis, Chromium or Node is skipped where they are missing
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(READY) $(VENV)-apps/.installed tests/sdk/node_modules/.package-lock.json tests/apps/node/node_modules/.package-lock.json  ## run the tests that take longer
	$(BIN)/python -m pytest -m slow $(ARGS)
	$(if $(ARGS),,REALTIME_MOVES=random $(BIN)/python -m pytest tests/realtime/protocol -k move)

# Gradio, Streamlit, Shiny and marimo: 1 GB, in an environment of their own. Where they cannot be installed,
# a line says so and their tests are skipped.
$(VENV)-apps/.installed: pyproject.toml scripts/venv.sh
	@echo "setting up the frameworks of examples/, some minutes"
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV)-apps apps || { [ -e $@ ] || rm -rf $(VENV)-apps; \
	    echo "Gradio, Streamlit, Shiny and marimo could not be installed: without them, their tests are skipped"; }

test-lowest: $(VENV)-lowest/.installed  ## run units and one test of each kind with the lowest versions that pyproject.toml allows
	$(VENV)-lowest/bin/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(LOWEST) $(ARGS)

$(VENV)-lowest/.installed: pyproject.toml scripts/lowest.py $(READY)
	$(BIN)/python -m venv $(VENV)-lowest
	$(BIN)/python scripts/lowest.py >$(VENV)-lowest/lowest.txt
	$(VENV)-lowest/bin/python -m pip --disable-pip-version-check --quiet install --requirement $(VENV)-lowest/lowest.txt
	@touch $@

lint: $(READY)  ## check the style, the formatting and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

dist: $(VENV)-dist/.installed  ## build sdist and wheel into dist/, and run the README's tour from the wheel in an empty environment
	@$(VENV)-dist/bin/python scripts/dist.py

$(VENV)-dist/.installed: scripts/venv.sh
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV)-dist --packages 'build>=1.2'

bench: $(VENV)/.bench  ## measure what it costs, beside other servers; ARGS: what of it, `--list` shows
	$(BIN)/python -m benchmarks $(ARGS)

# The peers. What cannot be had here is said now, and listed as absent in the report.
$(VENV)/.bench: $(READY) benchmarks/peers/package.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@if command -v npm >/dev/null; then npm --prefix benchmarks/peers ci --no-audit --no-fund --silent; \
	else echo "npm was not found: the peers on Node.js are absent"; fi
	@if command -v go >/dev/null; then \
	    echo "building Centrifugo $(CENTRIFUGO), some minutes"; mkdir -p build/bench; \
	    GOBIN="$(CURDIR)/build/bench" go install github.com/centrifugal/centrifugo/v6@$(CENTRIFUGO) \
	        || echo "Centrifugo could not be built: it is absent"; \
	else echo "go was not found: Centrifugo is absent"; fi
	@touch $@

fuzz: $(READY)  ## fuzz whatever reads bytes of strangers, for SECONDS (60)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	$(BIN)/python -m tests.fuzz -max_total_time=$(SECONDS) -max_len=4096

# Not with --quiet, which would keep warnings from --strict.
.PHONY: docs
docs: $(VENV)-docs/.installed  ## build the documentation site into build/site; a dead link or anchor fails
	$(VENV)-docs/bin/python scripts/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict
	@echo "build/site/index.html; to read it: $(VENV)-docs/bin/mkdocs serve"

$(VENV)-docs/.installed: pyproject.toml scripts/venv.sh
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV)-docs docs

screenshots: $(READY)  ## make the pictures in docs/ anew, from the running chat
	$(BIN)/python -m tests.browser.shoot

clean:  ## remove .venv and everything that tools left
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-apps $(VENV)-demo $(VENV)-dist build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf $(VENV)-docs
