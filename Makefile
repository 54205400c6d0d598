# Every target prints what it does; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 30s
CHAOSTIME   ?= 3m
SEEDS       ?= 20

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: dev-setup
dev-setup: ## Install what the tests need (Debian packages, Go modules)
	@packaging/dev-setup.sh

.PHONY: build
build: ## Build the static executable bin/signal
	CGO_ENABLED=0 go build -trimpath -buildvcs=auto -ldflags='-s -w' -o bin/signal .

.PHONY: run
run: build ## Run everything on this machine: the page is on http://localhost:8080
	@bin/signal serve

.PHONY: test
test: dev-setup lint ## Run every check: vet, linters, all tests with the race detector
	go test -race -shuffle=on ./...

.PHONY: lint
lint: ## Check formatting, go vet and staticcheck
	@test -z "$$(gofmt -l .)" || { echo "not formatted (run gofmt -w .):"; gofmt -l .; exit 1; }
	go mod tidy -diff
	go vet ./...
	go run $(STATICCHECK) ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s)
	@set -e; for package in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "== $$package $$target"; \
	    go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package; \
	  done; \
	done

.PHONY: chaos
chaos: ## Break nodes and Redis at random for CHAOSTIME (3m), once with each of SEEDS (20) seeds
	@set -e; for seed in $$(seq $(SEEDS)); do \
	  go test -race -count=1 -timeout 1h -run '^TestChaos$$' -v ./state -chaos-seed $$seed -chaos-time $(CHAOSTIME); \
	done

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin dist
