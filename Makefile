# Flotilla. `make help` lists what there is; `make verify` is what CI runs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
BIN := bin
GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION)

# How much the short forms do; `make soak` and `make bench` do the whole.
FUZZ_TIME ?= 10s
SOAK_RUNS_SHORT := 200
SOAK_RUNS := 2000
BENCH_ROWS_SHORT := 20000
BENCH_ROWS := 1000000

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: postgres
postgres: ## see that Postgres's server binaries are there, install them where we may
	@.ci/postgres

.PHONY: build
build: ## build bin/flotilla-os
	@$(GO) build -o $(BIN)/flotilla-os .

.PHONY: run
run: postgres build ## serve on this machine until Ctrl-C, with a private Postgres and local jobs
	@exec $(BIN)/flotilla-os dev

.PHONY: demo
demo: postgres build ## watch a job run out of memory and Flotilla size the next one
	@$(BIN)/flotilla-os demo

.PHONY: test
test: postgres ## every test, with the race detector
	$(GO) test -race -timeout 20m ./...

# Every package that has a test behind the build tag "kube".
KUBE_TESTS = $(sort $(dir $(shell grep -rl --include='*_test.go' '^//go:build kube' .)))

.PHONY: test-kube
test-kube: postgres ## the tests against the cluster of $KUBECONFIG (kubectl needed)
	$(GO) test -tags kube -timeout 30m -count 1 $(KUBE_TESTS)

.PHONY: lint
lint: $(GOLANGCI_LINT) ## formatting, vet and golangci-lint
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	  [[ -z $$unformatted ]] || { echo "gofmt -w $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags faultpoints ./...
	$(GO) vet -tags kube ./...
	$(GOLANGCI_LINT) run ./...

$(GOLANGCI_LINT):
	@mkdir -p $(BIN)
	GOBIN=$(CURDIR)/$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv $(BIN)/golangci-lint $@

.PHONY: fuzz
fuzz: postgres ## fuzz the list filters and the launch request, FUZZ_TIME each
	$(GO) test ./flotilla -run '^$$' -fuzz '^FuzzListFilters$$' -fuzztime $(FUZZ_TIME)
	$(GO) test ./flotilla -run '^$$' -fuzz '^FuzzLaunchRequest$$' -fuzztime $(FUZZ_TIME)

# What kills the servers and the database under 16 clients; see soak_test.go.
SOAK = $(GO) test . -run '^TestSoak' -v -soak.runs

.PHONY: soak-short
soak-short: postgres ## nothing lost, nothing twice, while servers and database are killed: SOAK_RUNS_SHORT runs per test
	$(SOAK)=$(SOAK_RUNS_SHORT) -timeout 15m

.PHONY: soak
soak: postgres ## the same with SOAK_RUNS runs per test
	$(SOAK)=$(SOAK_RUNS) -timeout 2h

.PHONY: verify
verify: lint test fuzz soak-short bench-short ## all of the above, a short soak and the benchmarks once: what CI runs
