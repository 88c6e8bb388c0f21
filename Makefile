# Every target makes what it needs; a second run redoes nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
PYTEST := $(BIN)/python -m pytest
# A file's tests share what they start and so stay in one process, as some files do that share a
# control plane: tests/conftest.py has which, and the order of all.  Tests on a cluster compute for two
# fifths of their time and wait for the rest, so that four processes keep two cores busy.
JOBS     ?= 4
PARALLEL := -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Where Python writes no bytecode, each of the processes compiles all tests anew, their asserts
# rewritten, and so does every operator, engine and command that they start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test unit integration test-k8s installs contract faults faults-subset lint format bench bench-weights weights-model weights-real bench-peers mutants soak chart requirements docs build schema policies golden proof clean tools node-tools

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## The guide's example on real nodes where they can run; ARGS='--once --kwok', ARGS=--gpu
	-@$(MAKE) --no-print-directory node-tools
	@$(BIN)/python -m sglang_operator.testing demo $(ARGS)

test: $(STAMP) tools ## All tests, faults by a seeded subset
	$(PYTEST) $(PARALLEL) tests/integration tests/faults tests/contract tests/unit $(ARGS)

unit: $(STAMP) ## Tests without a cluster
	$(PYTEST) $(PARALLEL) tests/unit $(ARGS)

integration: $(STAMP) tools ## Tests on a real control plane
	$(PYTEST) $(PARALLEL) tests/integration $(ARGS)

test-k8s: $(STAMP) tools ## Definition, policies, guide pool on an older Kubernetes: make test-k8s VERSION=1.34
	SGLANG_OPERATOR_KUBERNETES=$(VERSION) $(PYTEST) tests/integration -m each_kubernetes $(ARGS)

contract: $(STAMP) ## What engines do, on fakes of all versions; SGLANG_CONTRACT_… points it at a real one
	$(PYTEST) tests/contract $(ARGS)

.PHONY: gpu
gpu: $(STAMP) tools ## Real engines on real GPUs: SGLANG_GPU='--python …', as for demo --gpu; ARGS='-m gpu1'
	$(PYTEST) tests/gpu $(ARGS)

installs: $(STAMP) tools ## Each way to install, on real nodes; each verb of the roles: minutes
	$(PYTEST) tests/installs $(ARGS)

.PHONY: groups
groups: $(STAMP) tools ## Engines of several pods on two real nodes, ended in each way: minutes
	$(PYTEST) tests/groups $(ARGS)

faults-subset: $(STAMP) tools
	$(PYTEST) tests/faults $(ARGS)

faults: $(STAMP) tools ## The loop under fire, everything: one table, most of an hour
	$(BIN)/python -m tests.faults $(ARGS)

lint: $(STAMP) ## Format, lint and type checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: promql
promql: $(STAMP) tools ## Dashboards and alerts by Prometheus' own engine (builds it), on a real pool's metrics
	$(PYTEST) tests/promql $(ARGS)

.PHONY: kueue
kueue: $(STAMP) tools ## Pools in queues of the real Kueue (builds it once: most of ten minutes)
	$(PYTEST) tests/kueue $(ARGS)

.PHONY: kuberay
kuberay: $(STAMP) tools ## Engines on the GPUs of a RayCluster of the real KubeRay (builds it once: ten minutes)
	$(PYTEST) tests/kuberay $(ARGS)

VALIDATORS := $(VENV)/validate
.PHONY: validate
validate: $(STAMP) tools ## Chart, manifests and samples against schemas of each Kubernetes, and checkov
	@[ -x $(VALIDATORS)/bin/checkov ] || { $(PYTHON) -m venv $(VALIDATORS) && $(VALIDATORS)/bin/python -m pip install --quiet --upgrade "pip>=25.1" \
	  && $(VALIDATORS)/bin/python -m pip install \
	  --quiet --constraint tests/validate/constraints.txt --group validate; }
	$(BIN)/python -m tests.validate $(VALIDATORS)/bin

# ROLL's own modules want torch, ray and much else: an environment of their own.  Of gem, which the
# agentic environments are made of, only the package itself is needed.
ROLL := $(VENV)/roll
ROLL_SOURCE ?=
.PHONY: roll
roll: $(STAMP) ## ROLL's own pipelines on a pool: make roll ROLL_SOURCE=a clone of alibaba/ROLL
	@[ -z "$(ROLL_SOURCE)" ] || [ -e $(ROLL)/.installed ] || { $(PYTHON) -m venv $(ROLL) \
	  && $(ROLL)/bin/python -m pip install --quiet --upgrade "pip>=25.1" \
	  && $(ROLL)/bin/python -m pip install --quiet --constraint tests/roll/constraints.txt --group roll \
	  && $(ROLL)/bin/python -m pip install --quiet --no-deps --constraint tests/roll/constraints.txt gem-llm \
	  && touch $(ROLL)/.installed; }
	@$(BIN)/python -m tests.roll --python $(ROLL)/bin/python --source "$(ROLL_SOURCE)" $(ARGS)

format: $(STAMP) ## Bring the sources into form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: trainers
trainers: $(STAMP) ## slime's, miles' and AReaL's own code on fake engines: SLIME_SOURCE=… TRAINERS_PYTHON=…
	$(BIN)/python -m tests.trainers $(ARGS)

bench: $(STAMP) tools ## Pods per second, CPU and memory, against a raw client in the same run
	$(BIN)/python -m tests.bench $(ARGS)

weights-model: $(STAMP) ## 100,000 runs of everything between a trainer's bytes and a client's answer
	$(BIN)/python -m tests.weights $(ARGS)

weights-real: $(STAMP) tools ## The same on real containers, clients asking all the while; its controls: 35 min
	$(BIN)/python -m tests.weights_real $(ARGS)

bench-peers: $(STAMP) tools ## The same against KubeRay, LeaderWorkerSet and JobSet as shipped (builds them)
	$(BIN)/python -m tests.bench.peers $(ARGS)

soak: $(STAMP) tools ## Half an hour of 200 pools under churn and faults; the process must not grow
	$(BIN)/python -m tests.faults.soak $(ARGS)

mutants: $(STAMP) tools ## Planted defects that the suite under fire must catch
	$(BIN)/python -m tests.mutants $(ARGS)

bench-weights: $(STAMP) tools ## What weight updates cost: registry, epoch, gates, writes for each engine
	$(BIN)/python -m tests.bench_weights $(ARGS)

schema: $(STAMP) ## Argument schema of an SGLang version from its wheel: make schema VERSION=0.5.24
	$(BIN)/python -m generators.schema $(VERSION)

policies: $(STAMP) ## The optional admission policies, one for each SGLang version, from the schemas
	$(BIN)/python -m generators.policies

.PHONY: pod-schema
pod-schema: $(STAMP) tools ## What podTemplate may have, from the control plane's own OpenAPI, after a new Kubernetes
	$(BIN)/python -m generators.pod_schema

golden: $(STAMP) ## Write the golden pods of the samples anew; a changed revision restarts engines
	$(BIN)/python -m tests.golden

proof: $(STAMP) ## Rendered command lines against each SGLang version's own parser, all cases
	$(BIN)/python -m tests.proof $(ARGS)

requirements: $(STAMP) ## The hashed requirements of the image, after a change of constraints.txt
	$(BIN)/python -m generators.requirements

chart: $(STAMP) ## What the Helm chart takes from the manifests, and its README
	$(BIN)/python -m generators.chart

.PHONY: fuzz
FUZZ_SECONDS ?= 600
fuzz: $(STAMP) ## Parser and converter under anything, FUZZ_SECONDS=600 each (atheris: Linux, CPython)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group fuzz
	$(BIN)/python -m tests.fuzz parser --seconds $(FUZZ_SECONDS)
	$(BIN)/python -m tests.fuzz converter --seconds $(FUZZ_SECONDS)

.PHONY: dashboards
dashboards: $(STAMP) ## Grafana's dashboards in manifests/monitoring, from generators/dashboards
	$(BIN)/python -m generators.dashboards

.PHONY: real-engine
real-engine: $(STAMP) ## The page of what ran on a real GPU: ARGS=what demo --report and make gpu wrote
	$(BIN)/python -m generators.real_engine $(ARGS)

docs: $(STAMP) chart ## Pages of errors, commands, metrics; the CLI's picture of the CRD
	$(BIN)/python -m generators.docs

build: $(STAMP) ## Wheels of the operator and of the test kit, and their sources, in dist/
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --wheel --outdir dist operator/testkit

tools: $(STAMP) # etcd, kube-apiserver and the rest: built once into the user's cache
	@$(BIN)/python -m sglang_operator.testing tools >/dev/null
	@$(MAKE) --no-print-directory node-tools

# What real nodes need beside: Debian's programs where root may install them, and the kit's own build.
# Without root, or elsewhere than on Linux, their tests say why they skip.
node-tools: $(STAMP)
	@if [ "$$(uname -s)-$$(id -u)" = Linux-0 ]; then \
	  ( [ -e /usr/include/seccomp.h ] && for each in nft ip nsenter gcc pkg-config; do \
	      command -v $$each >/dev/null || exit 1; done ) \
	    || sh .ci/debian iproute2 nftables util-linux gcc libc6-dev pkg-config libseccomp-dev; \
	fi
	@$(BIN)/python -m sglang_operator.testing tools --real >/dev/null

clean: ## Remove everything that was made in this folder (the tools' cache stays)
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The virtual environment.  Debian splits venv from Python: as root it is installed, else named.
$(STAMP): pyproject.toml operator/testkit/pyproject.toml constraints.txt operator/sglang_operator/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) was found. Set PYTHON=..."; exit 1; }
	@echo "Making the virtual environment $(VENV) (about a minute)"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); sh .ci/debian python3-venv && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable '.[cli]' --editable 'operator/testkit[gpu]'
	@touch $@
