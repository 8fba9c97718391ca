# Two commands on a fresh machine: `make run` and `make test`. Both install what they need into .venv, once.
# `make test-docker` needs a Docker engine with Compose; it builds the images and runs them (docs/deployment.md).

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test test-thorough test-web test-docker test-helm test-monitoring test-api test-webrtc lint format bench wheel clean venv system chaos fuzz soak

run: venv
	$(BIN)/python -m tools.demo

test: venv
	$(BIN)/python -m tests

# What `make test` has no time for (tests/support/tiers.py): networks in their published sizes, and more. A minute.
test-thorough: venv
	OMP_NUM_THREADS=1 TEST_THOROUGH=1 $(BIN)/python -m pytest -p tests.support.split --processes 2 -m thorough

test-docker: venv
	DOCKER_TESTS=1 $(BIN)/python -m pytest --timeout 1500 tests/docker

# Dashboard and alert rules, read by Prometheus itself.
test-monitoring: venv
	@if ! command -v promtool >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus; \
		else \
			echo "Prometheus is missing. Install it and try again: sudo apt-get install prometheus"; exit 1; \
		fi; \
	fi
	TEST_MONITORING=1 $(BIN)/python -m pytest -rs tests/gateway/test_monitoring.py

# The Helm chart, rendered by Helm's own library and held against Kubernetes' schemas (350 MB of both, installed here).
test-helm: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[helm]'
	HELM_TESTS=1 $(BIN)/python -m pytest tests/deploy

# Calls over WebRTC, also through a real relay.
test-webrtc: venv
	@if ! command -v turnserver >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends coturn; \
		else \
			echo "coturn is missing. Install it and try again: sudo apt-get install coturn"; exit 1; \
		fi; \
	fi
	TEST_WEBRTC=all $(BIN)/python -m pytest -rs tests/gateway/rtp tests/gateway/transports

# The running service against its OpenAPI description: requests that are made up.
test-api: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[api]'
	TEST_API_EXAMPLES=$${TEST_API_EXAMPLES:-200} $(BIN)/python -m pytest --timeout 1200 tests/api

# Everything about the page, in both browsers. Installs them, and what drives them, where it may (Debian, as root).
test-web: venv
	@for program in chromium firefox-esr pulseaudio node npm; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -n "$$missing" ]; then \
		packages=$$(echo "$$missing" | sed 's/\<node\>/nodejs/'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages; \
		else \
			echo "Not installed:$$missing. Install and try again: sudo apt-get install$$packages"; exit 1; \
		fi; \
	fi
	npm ci --prefix tests/web --no-audit --no-fund --silent
	TEST_WEB=all $(BIN)/python -m pytest tests/web -rs

# Every way in which a service may break, under calls in real time; a table (docs/reliability.md). Some ten minutes.
chaos: venv
	$(BIN)/python -m tests.chaos --json outputs/chaos.json

# What arrives as bytes: 10^5 of each kind, changed, cut and joined; other ones with FUZZ_SEED=n. Then half a minute for
# each reader, led by the code that is reached.
fuzz: venv
	FUZZ_EXAMPLES=100000 $(BIN)/python -m pytest -q --timeout 7200 tests/fuzz
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	for reader in $$($(BIN)/python -c 'from tests.fuzz.readers import READERS; print(*READERS)'); do $(BIN)/python -m tests.fuzz.guided $$reader -max_total_time=30 || exit 1; done

# An hour: 10^4 short sessions that end in every way beside one long call; memory, descriptors, threads, and a plot.
soak: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt matplotlib
	$(BIN)/python -m tests.chaos.soak --json outputs/soak.json

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv
	@mkdir -p outputs
	$(BIN)/python -m tools.bench_gateway --json outputs/bench_gateway.json
	$(BIN)/python -m tools.bench_engine --quick --json outputs/bench_engine.json

wheel: venv
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	rm -rf build

venv: system $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
			{ echo "Python 3.11 is needed: install it, or run make PYTHON=/path/to/python3.11"; exit 1; }; \
		$(PYTHON) -m venv $(VENV) || { echo "No virtual environment: on Debian, sudo apt-get install python3.11-venv"; exit 1; }; \
	}
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,webrtc,dev]'
	@touch $(STAMP)

# libopus is the one library that no Python package brings. ldconfig is not on every user's PATH, nor on every system.
system:
	@if ! PATH="$$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q 'libopus\.so' \
		&& ! $(PYTHON) -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("opus"))' 2>/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libopus0; \
		else \
			echo "libopus is missing. Install it and try again: sudo apt-get install libopus0 (macOS: brew install opus)"; exit 1; \
		fi; \
	fi

clean:
	rm -rf $(VENV) temp logs outputs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
