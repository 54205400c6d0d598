# Every target prints what it does; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GOTESTSUM   := go run gotest.tools/gotestsum@v1.13.0
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
ERRCHECK    := go run github.com/kisielk/errcheck@v1.30.0 -exclude $(CURDIR)/packaging/lint/errcheck.txt
UNPARAM     := go run mvdan.cc/unparam@v0.0.0-20260823230713-2fa3d841b0c8
DEADCODE    := go run golang.org/x/tools/cmd/deadcode@v0.52.0 -f '{{range .Funcs}}{{println $$.Path .Name}}{{end}}'
TYPESCRIPT  := typescript@7.0.2
FUZZTIME    ?= 30s
CHAOSTIME   ?= 3m
SEEDS       ?= 20
BENCHRUNS   ?= 5
SCENARIOS   ?= S,PAIR,TLS,DTLS,F,A
TURNSERVER  ?= turnserver
WSSCENARIOS ?= saturated,paced,half,trickle,storm,slow
OUT         ?= bin/signal
IMAGE       ?= signal:dev
PLATFORMS   ?= amd64 arm64 armv7
NATIVE      := $(patsubst arm,armv7,$(shell go env GOARCH))
export IMAGE OVERLAY
export VERSION ?= $(patsubst v%,%,$(shell git describe --tags --match 'v[0-9]*' 2>/dev/null || echo 0.0.0))

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: dev-setup
dev-setup: ## Install what the tests need (Debian packages, Go modules)
	@packaging/dev-setup.sh

# The Redis client is most of the executable and waits for Redis most of its time: without inlining
# it is 2 MB less.
.PHONY: executable
executable:
	@echo "compiling $(OUT)"
	@CGO_ENABLED=0 go build -trimpath -buildvcs=auto -ldflags='-s -w -buildid=' \
	  -gcflags='github.com/redis/go-redis/v9/...=-l' -o $(OUT) .

.PHONY: build
build: executable ## Build the static executable bin/signal

.PHONY: run
run: build ## Run everything on this machine: the page is on http://localhost:8080
	@bin/signal serve

.PHONY: test
test: dev-setup lint ## Run every check: linters and all tests with the race detector, the slowest named
	@mkdir -p dist
	$(GOTESTSUM) --format pkgname --jsonfile dist/tests.json --raw-command -- packaging/test.sh
	@echo "the slowest tests:"
	@$(GOTESTSUM) tool slowest --jsonfile dist/tests.json --threshold 1s --num 10

.PHONY: lint
lint: lint-js ## Check formatting, go vet, four linters and the types of the JavaScript
	@test -z "$$(gofmt -l .)" || { echo "not formatted (run gofmt -w .):"; gofmt -l .; exit 1; }
	@set -e; for module in . k8s packaging/image; do echo "linting module $$module"; \
	  (cd $$module && go mod tidy -diff && go vet ./... && $(STATICCHECK) ./... && $(ERRCHECK) ./... && $(UNPARAM) ./...); done
	@dead=$$($(DEADCODE) . | grep -v '^$$' | grep -vEf <(grep -v '^#' packaging/lint/reachable.txt) || true); \
	  test -z "$$dead" || { echo "the executable does not reach (use it, remove it, or say in packaging/lint/reachable.txt why it stays):"; echo "$$dead"; exit 1; }

# npx keeps the compiler in npm's cache, so that nothing of it comes near the tree.
.PHONY: lint-js
lint-js: ## Check the types of the JavaScript with tsc
	@if command -v npx >/dev/null; then npx --yes --package $(TYPESCRIPT) -- tsc -p assets; \
	elif [ "$$CI" = true ]; then echo "npm is not installed: run make dev-setup" >&2; exit 1; \
	else echo "npm is not installed, so the types of the JavaScript are not checked: run make dev-setup"; fi

.PHONY: licenses
licenses: ## Write packaging/licenses.txt anew, after modules have changed
	@go test -count=1 -run '^TestLicensesAreComplete$$' ./packaging -update-licenses

.PHONY: vulncheck
vulncheck: ## Ask the vulnerability database of the Go project about the program (needs the Internet)
	@go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

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
	  go test -race -count=1 -timeout 1h -run '^TestChaos$$' -v ./state ./signal -chaos-seed $$seed -chaos-time $(CHAOSTIME); \
	done

# The TURN server of the benchmarks. {min} is the first relay port, which is no TCP port of anybody. BENCHFLAGS may give the generator
# more flags: BENCHFLAGS=--verify.
BENCHED := bin/signal serve --server-host 127.0.0.1 --server-port {min} --admin-addr 127.0.0.1:{max} --log-format json --log-level error \
  --turn-listen 127.0.0.1 --turn-port {port} --turn-tls-port {tls} --turn-tls-cert {cert} --turn-tls-key {key} \
  --turn-relay-ip 127.0.0.1 --turn-min-port {min} --turn-max-port {max} \
  --turn-secret {secret} --turn-allow-peer 127.0.0.1 --turn-user-quota 0 --turn-allocate-rate 0 --turn-unauth-rate 1000000

.PHONY: bench
bench: ## Measure TURN, then signaling: bench-turn and bench-ws (19 min)
	@$(MAKE) --no-print-directory bench-turn
	@$(MAKE) --no-print-directory bench-ws

.PHONY: bench-turn
bench-turn: build ## Compare SCENARIOS (all but C and I) with coturn (TURNSERVER) in BENCHRUNS (5) runs (14 min)
	@command -v $(TURNSERVER) >/dev/null || { echo "make bench-turn needs coturn: run make dev-setup"; exit 1; }
	@bin/signal bench turn --runs $(BENCHRUNS) --duration 2s --core 1 --pin 0 --floor --scenario $(SCENARIOS) \
	  --command "$(BENCHED)" \
	  --against "$(TURNSERVER) -n --listening-ip 127.0.0.1 --relay-ip 127.0.0.1 --listening-port {port} --min-port {min} --max-port {max} \
	    --tls-listening-port {tls} --cert {cert} --pkey {key} \
	    --use-auth-secret --static-auth-secret {secret} --realm bench --allow-loopback-peers --no-cli \
	    --relay-threads 1 --log-file /dev/null --simple-log" $(BENCHFLAGS)

# The signaling server of the benchmarks: its clients have one address and send as fast as they can. WSAGAINST may name other
# servers: WSAGAINST='--against "node peerjs.js --port {port}" --against-dialect peerjs'.
BENCHED_WS := bin/signal serve --server-host 127.0.0.1 --server-port {port} --admin-addr= --turn-enabled=false --log-level error \
  --address-connections 1000000 --message-rate 10000000 --message-burst 10000000

.PHONY: bench-ws
bench-ws: build ## Compare WSSCENARIOS (all but idle and churn) with an echo in BENCHRUNS (5) runs (5 min)
	@bin/signal bench ws --runs $(BENCHRUNS) --duration 2s --core 1 --pin 0 --floor --scenario $(WSSCENARIOS) \
	  --command "$(BENCHED_WS)" $(WSAGAINST)

# With a real-time priority the kernel puts the threads of a process that goes on at once on all of its cores.
.PHONY: bench-cores
bench-cores: build ## Compare two data loops on two cores with one on one, in BENCHRUNS (5) runs, as root (2 min)
	@chrt -r 2 bin/signal bench turn --runs $(BENCHRUNS) --duration 2s --core 1 --scenario C3,C4 \
	  --command "chrt -r 1 taskset -c 0,1 $(BENCHED) --turn-udp-sockets 2" \
	  --against "chrt -r 1 taskset -c 0 $(BENCHED) --turn-udp-sockets 1"

.PHONY: rolling
rolling: ## Update three nodes of the DaemonSet under a call, with the drain of the manifest (5 min)
	go test -C k8s -race -count=1 -run '^TestRollingUpdate$$' -v . -drain 0

.PHONY: k8s-dry-run
k8s-dry-run: ## Have a real API server and controller, built from the Go proxy, take every overlay (15 min the first time)
	@k8s/dry-run.sh

.PHONY: docker-build
docker-build: ## Build the container image $IMAGE (signal:dev) without pulling anything
	@packaging/image.sh $(NATIVE)
	@echo "built $(IMAGE): docker run --read-only --network host $(IMAGE)"

.PHONY: dev
dev: docker-build ## Start two nodes, Redis and a proxy with Docker: http://localhost:8080
	@packaging/compose.sh up --detach
	@echo "running: http://localhost:8080; logs by make docker-compose-logs, the end by make stop"

.PHONY: stop
stop: ## Stop what make dev started and remove its containers and data
	@packaging/compose.sh down --volumes --remove-orphans --timeout 45

.PHONY: docker-compose-logs
docker-compose-logs: ## Follow the logs of what make dev started
	@packaging/compose.sh logs --follow --tail 100

.PHONY: package
package: ## Make dist/*.deb and dist/*.rpm of this machine's platform
	@packaging/package.sh $(NATIVE)

.PHONY: release
release: ## Make everything of a release in dist/: archives, packages, images, SBOM, checksums
	@packaging/release.sh $(PLATFORMS)

.PHONY: k8s-secrets
k8s-secrets: ## Write k8s/base/secrets.env with new secrets, unless it is there
	@k8s/secrets.sh

.PHONY: k8s-deploy
k8s-deploy: ## Apply k8s/$OVERLAY (daemonset) with $IMAGE and wait until it runs
	@k8s/kube.sh deploy

.PHONY: k8s-status
k8s-status: ## Show what runs in the cluster, and its warnings
	@k8s/kube.sh status

.PHONY: k8s-port-forward
k8s-port-forward: ## Open the cluster's service on http://localhost:8080
	@k8s/kube.sh port-forward

.PHONY: full-deploy
full-deploy: docker-build ## Build and push $IMAGE, apply k8s/$OVERLAY and show what runs
	@k8s/kube.sh push
	@k8s/kube.sh deploy
	@k8s/kube.sh status

.PHONY: minikube-start
minikube-start: ## Start a cluster on this machine
	@k8s/kube.sh minikube-start

.PHONY: minikube-deploy
minikube-deploy: ## Build the image, load it into minikube and apply k8s/minikube
	@$(MAKE) --no-print-directory docker-build IMAGE=signal:dev
	@k8s/kube.sh minikube-deploy

.PHONY: minikube-service
minikube-service: ## Print the URL of the service in minikube
	@k8s/kube.sh minikube-service

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin dist
