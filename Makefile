# Everything is set up inside the targets: Python 3.11 or newer, make and git are all it takes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
ENV ?=
KEEP ?=
BENCH ?= synth spot_chaos
FILE ?= prefect.yaml
# "stored": flows are deployed to the environment's own Prefect API, with the credential that it has stored. For CI.
CREDENTIAL ?=
# More options for the CDK CLI, such as "--require-approval never" where nobody can be asked.
CDK_OPTIONS ?=
UV_VERSION := $(shell sed -n 's/^uv==//p' requirements.txt)
NAMES := dev, staging, prod, embedded

export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/node_modules/.bin:$(PATH)
export npm_config_update_notifier := false
# Of what this repository installs, only the demo and the tests start Prefect: nothing is to be reported anywhere.
export DO_NOT_TRACK := 1

VENV := .venv/.installed
NODE := node_modules/.installed
NODE_CHECKS := node_modules/.checks
CHECKS := .venv/.checks
CHECKOV := .venv/checkov/.installed
INSTALLED := $(VENV) $(NODE)

.PHONY: help demo test test-slow soak test-host test-all checkov image ui screenshots lint format bootstrap synth diff deploy flows destroy bench findings permissions templates lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-11s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Deploy to an embedded AWS, run flows, interrupt one, see it complete (KEEP=1 leaves it running; EMBEDDED_RUNTIME=podman: in containers)
	@python -m embedded.demo $(if $(KEEP),--keep)

# Two processes for two cores. The tests of the app for real come last, or one of their long files would end alone.
test: lint $(NODE_CHECKS) ## Run checks, unit, policy and integration tests
	pytest -n 2 --dist loadfile -m "not slow and not image and not checkov" tests/unit tests/policy tests/integration/embedded
	pytest -n 2 --dist loadfile -m "not slow" --ignore tests/integration/embedded tests/integration

test-slow: $(INSTALLED) $(CHECKS) ## Run the integration tests that take minutes
	pytest -m "slow and not image" --ignore tests/ui

soak: $(INSTALLED) ## Deploy, run, interrupt and destroy on CYCLES=50 embedded AWSes, one by one: is anything left?
	CYCLES=$(or $(CYCLES),50) pytest tests/integration/embedded/test_embedded_cycles.py

test-host: $(INSTALLED) $(CHECKS) ## Set up a worker host for real, on a scratch machine with its own systemd; takes root
	pytest -m "slow and image" --ignore tests/ui

test-all: test test-slow test-host checkov image ui ## Run every test

checkov: $(INSTALLED) $(CHECKOV) ## Have checkov look at every template
	pytest -m checkov --ignore tests/ui

image: $(INSTALLED) $(CHECKS) ## Build the flow image, run it and check what is in it
	@python -m embedded.images build --tag flow-image:checked
	pytest -m "image and not slow" --ignore tests/ui

ui: $(INSTALLED) $(CHECKS) browser ## Look at the Prefect UI as a person does, in headless Chromium (CHROMIUM=FILE to choose)
	pytest tests/ui

screenshots: export SCREENSHOTS := $(CURDIR)/docs/images
screenshots: ui ## Renew the pictures in docs/images

# Playwright drives the browser that the machine has; it downloads none of its own.
BROWSER := python tests/ui/ui_browser.py

.PHONY: browser
browser: $(CHECKS)
	@if ! $(BROWSER) >/dev/null 2>&1 && test -z "$${CHROMIUM:-}" -a "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
	  echo "Setting up Chromium …"; apt-get -qq update; apt-get -qq --yes --no-install-recommends install chromium >/dev/null; fi
	@$(BROWSER) >/dev/null

lint: $(INSTALLED) ## Check style and types
	ruff check .
	ruff format --check .
	mypy

format: $(VENV) ## Format the code
	ruff check --fix .
	ruff format .

bootstrap: $(INSTALLED) environment ## Prepare ENV's account and region for the CDK, once
	$(CDK) bootstrap $(CONTEXT) $(CDK_OPTIONS)

synth: $(INSTALLED) environment ## Synthesize the templates of ENV into cdk.out, with policy checks
	$(CDK) synth --quiet '**' $(CONTEXT)

diff: $(INSTALLED) environment ## Show what deploying ENV would change
	$(CDK) diff '**' $(CONTEXT) $(CDK_OPTIONS)

# Strict: a warning, such as the placeholder workspace that the environments ship with, stops it before anything is made.
deploy: $(INSTALLED) environment ## Deploy ENV
	$(CDK) deploy --strict '**' $(CONTEXT) $(if $(LOCAL),--require-approval never) $(CDK_OPTIONS)

flows: $(VENV) environment ## Deploy the flows to ENV: their code to its bucket, their deployments to Prefect
	@$(if $(LOCAL),python -m embedded run -- )python -m tools.deploy_flows $(ENV) --file $(FILE) $(if $(filter stored,$(CREDENTIAL)),--stored-credential)

destroy: $(INSTALLED) environment ## Delete the stacks of ENV; data that is retained stays
	$(CDK) destroy '**' $(CONTEXT) $(if $(LOCAL),--force) $(CDK_OPTIONS)

CONTEXT = -c env=$(ENV)
# The environment embedded is on this machine: `run` says where, to the CLI and to the app.
LOCAL := $(filter embedded,$(ENV))
CDK = $(if $(LOCAL),python -m embedded run -- )cdk

.PHONY: environment
environment:
	@test -n "$(ENV)" || { echo "make: say which environment: ENV=NAME with one of $(NAMES)" >&2; exit 2; }

bench: $(INSTALLED) ## Measure, ours beside others in one run (BENCH=synth or spot_chaos for one of them)
	@for name in $(BENCH); do python -m bench.$$name; done

findings: $(VENV) ## List in docs/findings.md which findings of the policy checks are accepted, and why
	@python -m tools.list_findings

permissions: $(INSTALLED) $(NODE_CHECKS) ## Write docs/permissions.md anew: what each role may do, and which code needs it
	@python -m tools.permissions

templates: $(VENV) ## Write plain CloudFormation templates into build/templates: docs/templates.md says how to deploy them
	@python -m tools.templates

HOST := constructs/cdk_prefect_ecs/host
LOCK = uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate

lock: $(VENV) ## Resolve requirements.in, and what the image and the checks need of it, into the locks
	$(LOCK) requirements.in --output-file requirements.txt
	$(LOCK) docker/flow/requirements.in --constraint requirements.txt --generate-hashes --output-file docker/flow/requirements.txt
	$(LOCK) docker/flow/installer.in --constraint requirements.txt --generate-hashes --output-file docker/flow/installer.txt
	$(LOCK) $(HOST)/requirements.in --constraint requirements.txt --generate-hashes --output-file $(HOST)/requirements.txt
	$(LOCK) requirements-checks.in --constraint requirements.txt --output-file requirements-checks.txt
	$(LOCK) requirements-checkov.in --output-file requirements-checkov.txt

clean: ## Remove everything that set-up and tests made
	@if [ -d .embedded ] && [ -x .venv/bin/python ]; then .venv/bin/python -m embedded down; fi
	@umount --quiet .images/storage/overlay 2>/dev/null || true  # podman may have left it mounted
	rm -rf .venv node_modules cdk.out .embedded .images .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Say make PYTHON=python3.12" >&2; exit 2; }
	@echo "Setting up .venv: the locked Python packages and Node.js …"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@.venv/bin/uv pip sync --quiet --compile-bytecode requirements.txt
	@.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(NODE): package.json package-lock.json $(VENV)
	@echo "Setting up node_modules: the pinned CDK CLI …"
	@npm ci --omit=dev --silent --no-audit --no-fund
	@touch $@

$(NODE_CHECKS): $(NODE)
	@npm ci --silent --no-audit --no-fund
	@touch $(NODE) $@

$(CHECKS): requirements-checks.txt $(VENV)
	@.venv/bin/uv pip install --quiet --requirement requirements-checks.txt
	@touch $@

$(CHECKOV): requirements-checkov.txt $(VENV)
	@echo "Setting up .venv/checkov: 260 MB that nothing else needs …"
	@.venv/bin/uv venv --quiet --clear --python .venv/bin/python .venv/checkov
	@.venv/bin/uv pip install --quiet --python .venv/checkov/bin/python --requirement requirements-checkov.txt
	@touch $@
