# Byrnie: build, test, show. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
OUT := $(CURDIR)/.build
BIN := $(OUT)/bin
CLUSTER := $(BIN)/byrnie-cluster
STEP := @tests/tools/step
export BYRNIE_VERSION := $(VERSION)
export BYRNIE_BUILD := $(OUT)
export BYRNIE_CLUSTER_BIN := $(CLUSTER)
export PATH := $(BIN):$(PATH)
# the same for builds, tests and vet: else Kubernetes is compiled three times
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(shell go env GOFLAGS) -trimpath)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## ---- see it

.PHONY: demo
demo: prerequisites binaries images ## Start a cluster (or use $KUBECONFIG), install the mesh, run the shop and show it
	@demo/run

.PHONY: demo-down
demo-down: ## Remove what the demo made
	@demo/down

## ---- build

.PHONY: prerequisites
prerequisites: ## Install the Debian packages that cluster, tests and benches need
	$(STEP) "prerequisites" tests/tools/prerequisites

.PHONY: binaries
binaries: cluster-binary apps-binary rust-binaries proxy-binary ## Build everything that goes into images, and the byrnie command

.PHONY: rust-binaries
rust-binaries:
	$(STEP) "control plane and byrnie command" tests/tools/cargo-static --release -p byrnie-operator -p byrnie-injector -p byrnie
	@mkdir -p $(BIN)
	@install -m 0755 $(TARGET_DIR)/$(HOST)/release/{byrnie-operator,byrnie-injector,byrnie} $(BIN)/

.PHONY: proxy-binary
proxy-binary:
	@tests/tools/profile --fits || true
	$(STEP) "proxy (optimised with a profile)" tests/tools/proxy-binary
	@mkdir -p $(BIN)
	@install -m 0755 $(TARGET_DIR)/$(HOST)/dist/byrnie-proxy $(BIN)/

.PHONY: profile
profile: prerequisites apps-binary ## Make the profile that the proxy is compiled with anew: proxy/profile
	@tests/tools/profile

.PHONY: cluster-binary
cluster-binary:
	$(STEP) "Kubernetes, as one binary" tests/tools/go-static tests/cluster $(BIN)

.PHONY: apps-binary
apps-binary:
	$(STEP) "applications of tests and demo" tests/tools/go-static tests/apps $(BIN)

.PHONY: images
images: binaries ## Build the images as archives in .build/images
	$(STEP) "images" tests/tools/images

.PHONY: manifest
manifest: cluster-binary ## Render the chart to .build/byrnie.yaml for kubectl users
	$(STEP) "manifest" tests/tools/manifest

.PHONY: crds
crds: ## Generate deploy/chart/kinds from the Rust types
	cargo run -q -p byrnie-crds --bin crdgen

.PHONY: schema
schema: ## Generate the JSON Schema of the proxy's configuration file from the Rust types
	BYRNIE_WRITE_SCHEMA=1 cargo test -q -p byrnie-proxy --lib the_schema_is_that_of_the_types

## ---- check

.PHONY: test
test: prerequisites test-rust test-go test-e2e test-e2e-next ## Run all tests: Rust, Go, and end to end on a real cluster

.PHONY: test-rust
test-rust: ## Run the Rust tests
	$(STEP) "Rust tests" cargo test --workspace

.PHONY: test-go
test-go: cluster-binary apps-binary ## Run the Go tests of the cluster and the applications
	$(STEP) "Go tests of tests/apps" go -C tests/apps test -v ./...
	$(STEP) "Go tests of tests/cluster" go -C tests/cluster test -v ./...
	$(STEP) "Go tests of tests/conformance" go -C tests/conformance test -v ./...

.PHONY: test-e2e
test-e2e: prerequisites images ## Run the end-to-end tests on a real cluster (or on $KUBECONFIG)
	$(STEP) "end-to-end tests" tests/tools/e2e

.PHONY: test-e2e-next
test-e2e-next: prerequisites images ## Run what Kubernetes 1.37 adds: certificates from the kubelet
	$(STEP) "Kubernetes 1.37, as one binary" tests/tools/cluster-next
	$(STEP) "end-to-end tests on Kubernetes 1.37" env -u KUBECONFIG BYRNIE_CLUSTER_BIN=$(BYRNIE_BUILD)/next/bin/byrnie-cluster DWELL=15s tests/tools/e2e ./kubelet

.PHONY: previous
previous: binaries ## Build the release before this one, for tests of upgrades
	$(STEP) "the release before" tests/tools/previous

.PHONY: chaos chaos-full
chaos: prerequisites images ## Break the mesh under load, in ten minutes; prints a table, fails on a loss
	$(STEP) "chaos tests" tests/tools/e2e ./chaos
chaos-full: prerequisites images previous ## The same in an hour and a half, with everything
	$(STEP) "all chaos tests" env CHAOS=full DWELL=15s tests/tools/e2e ./chaos

.PHONY: lint
lint: format clippy architecture profile-fits vet ## Check format, lints, the dependency rules and the proxy's profile

.PHONY: format clippy architecture profile-fits vet
format:
	$(STEP) "format" cargo fmt --all --check
clippy:
	$(STEP) "lints" cargo clippy --workspace --all-targets -- -D warnings
architecture:
	$(STEP) "dependency rules" tests/tools/architecture
profile-fits:
	$(STEP) "the proxy's profile" tests/tools/profile --fits
vet:
	$(STEP) "go vet" bash -c 'for m in apps cluster/internal conformance e2e; do go -C tests/$$m vet ./...; done'

.PHONY: fmt
fmt: ## Format everything
	cargo fmt --all
	gofmt -w tests

## ---- check with others' eyes

CONFORMANCE := $(OUT)/conformance
PROXY = $(BIN)/byrnie-proxy
DESYNC ?= full

.PHONY: conformance
conformance: desync h2spec grpc-interop ## Run the proxy against third parties: desync, h2spec, gRPC interop

.PHONY: desync
desync: prerequisites conformance-binaries ## Send 10^6 generated streams to nginx, HAProxy, Node and Go: none is smuggled; DESYNC=short for 50,000
	$(STEP) "desync tests: do they notice" tests/conformance/desync/notices $(CONFORMANCE)/desync $(PROXY)
	$(STEP) "desync tests" $(CONFORMANCE)/desync -proxy $(PROXY) $(if $(filter short,$(DESYNC)),-streams 50000,$(if $(filter-out full,$(DESYNC)),$(DESYNC)))

.PHONY: h2spec
h2spec: conformance-binaries ## Run h2spec against the proxy
	$(STEP) "h2spec tests" $(CONFORMANCE)/h2spec -proxy $(PROXY)

.PHONY: grpc-interop
grpc-interop: conformance-binaries ## Run the interoperability tests of gRPC through two proxies
	$(STEP) "gRPC interop tests" $(CONFORMANCE)/grpc -proxy $(PROXY) -programs $(CONFORMANCE)

.PHONY: fuzz
fuzz: ## Fuzz every parser of the proxy for FUZZ_SECONDS (60) each; prints a table, fails on a crash
	@tests/fuzz/run

.PHONY: conformance-binaries
conformance-binaries: proxy-binary
	$(STEP) "third parties" go -C tests/conformance build -o $(CONFORMANCE)/ ./desync ./h2spec ./grpc google.golang.org/grpc/interop/client google.golang.org/grpc/interop/server

## ---- measure

.PHONY: bench bench-check allocations
bench: prerequisites binaries allocations ## Compare the proxy with HAProxy and nginx in one run; prints, never fails on speed
	@tests/bench/run
bench-check: prerequisites binaries allocations ## Compare instructions, allocations and size with the committed figures; prints what moved
	@tests/bench/run --check
allocations:
	$(STEP) "allocations per request" bash -c 'cargo test -q -p byrnie-proxy --test allocations -- --nocapture | tee $(OUT)/allocations.txt'

.PHONY: resilience
resilience: prerequisites apps-binary proxy-binary ## Show what the proxy does about faults and overload; prints a table, fails on a missed bar
	@tests/resilience/run

.PHONY: scale
scale: prerequisites images ## Grow a cluster of fake pods and proxies to 10,000 and 1,000; prints what the operator takes
	$(STEP) "simulated proxies" tests/tools/cargo-static --release -p byrnie-scale
	@install -m 0755 $(TARGET_DIR)/$(HOST)/release/byrnie-scale $(BIN)/
	@tests/scale/run

.PHONY: sizes
sizes: binaries images ## Print sizes: binaries, images, lines of code, dependencies
	@tests/tools/sizes

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(OUT) target
