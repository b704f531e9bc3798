# Flotilla. `make help` lists the targets; CI runs `make verify`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
BIN := bin
GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION)

# The sizes of `make fuzz`, of the short forms, and of `make soak` and `make bench`.
# FUZZ_TIME is a count because Go's fuzzer fails if a time runs out during an
# execution. 3000 executions take about 10 s.
FUZZ_TIME ?= 3000x
SOAK_RUNS_SHORT := 200
SOAK_RUNS := 2000
BENCH_ROWS_SHORT := 20000
BENCH_ROWS := 1000000

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: postgres
postgres: ## check for Postgres's server binaries; install them if permitted
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

# KUBE_FILES are the tests behind the build tag "kube", KUBE_TESTS their names.
KUBE_FILES := $(shell grep -rl --include='*_test.go' '^//go:build kube' .)
KUBE_TESTS = $(shell sed -n 's/^func \(Test[A-Za-z0-9]*\).*/\1/p' $(KUBE_FILES) | paste -sd '|')
KUBE_RUNS := 10000

.PHONY: test-kube
test-kube: postgres ## the tests against the cluster of $KUBECONFIG (kubectl needed)
	$(GO) test -tags kube -timeout 30m -count 1 -parallel 4 -run '^($(KUBE_TESTS))$$' $(sort $(dir $(KUBE_FILES)))

.PHONY: bench-kube
bench-kube: postgres ## KUBE_RUNS runs at once on the simulated nodes (kwok) of $KUBECONFIG: rate, requests, delay, memory
	@mkdir -p $(BIN); rm -f $(BENCH_RESULTS)
	FLOTILLA_BENCH_RESULTS=$(BENCH_RESULTS) $(GO) test -tags kube -timeout 1h -run '^$$' -bench '^BenchmarkKubeScale$$' -benchtime 1x ./e2e -scale.runs $(KUBE_RUNS)
	@.ci/bench-table '$(KUBE_RUNS) runs on a cluster on this machine' <$(BENCH_RESULTS)

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

# The soak tests kill servers and database under 16 clients; see e2e/soak_test.go.
SOAK = $(GO) test ./e2e -run '^TestSoak' -v -soak.runs

.PHONY: soak-short
soak-short: postgres ## no run lost or executed twice while servers and database are killed: SOAK_RUNS_SHORT runs per test
	$(SOAK)=$(SOAK_RUNS_SHORT) -timeout 15m

.PHONY: soak
soak: postgres ## the same with SOAK_RUNS runs per test
	$(SOAK)=$(SOAK_RUNS) -timeout 2h

# BENCH runs the benchmarks and prints a table: measured, goal, reference.
# $(1) is the number of runs of history, $(2) that of iterations, $(3) that of
# runs in BenchmarkToRunning, $(4) that of runs in BenchmarkMemory. A missed
# goal is not a failure, because timings depend on the load of the machine. A
# plan that scans the table of runs is a failure, here and in `make test`.
define BENCH
	@mkdir -p $(BIN); rm -f $(BENCH_RESULTS)
	$(GO) test ./state -run '^($(PLAN_TESTS))$$' -count 1
	$(BENCH_GO) ./state -bench '^BenchmarkARALookup$$' -benchtime $(2)x
	$(BENCH_GO) ./e2e -bench '^BenchmarkHistory$$' -benchtime $(2)x
	$(BENCH_GO) ./e2e -bench '^BenchmarkToRunning$$' -benchtime $(3)x
	$(BENCH_GO) ./e2e -bench '^BenchmarkMemory$$' -benchtime 1x -bench.executed $(4)
	@.ci/bench-table '$(1) runs of history' <$(BENCH_RESULTS)
endef
PLAN_TESTS = $(shell sed -n 's/^func \(Test[A-Za-z]*\).*/\1/p' state/plans*_test.go | paste -sd '|')
BENCH_RESULTS := $(CURDIR)/$(BIN)/bench-results
BENCH_GO = FLOTILLA_BENCH_RUNS=$(1) FLOTILLA_BENCH_RESULTS=$(BENCH_RESULTS) $(GO) test -run '^$$' -timeout 1h

.PHONY: bench-short
bench-short: postgres ## query plans and small benchmarks: BENCH_ROWS_SHORT runs of history
	$(call BENCH,$(BENCH_ROWS_SHORT),5,20,300)

.PHONY: bench
bench: postgres ## the same in full: BENCH_ROWS runs of history, 10,000 executed
	$(call BENCH,$(BENCH_ROWS),50,200,10000)

.PHONY: verify
verify: lint test fuzz soak-short bench-short ## lint, test, fuzz, short soak and short benchmarks: what CI runs
