# Vortex. `make help` lists the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT      ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo none)
LDFLAGS     := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
EMBEDDED    := internal/runtime/oci/embedded/bin
TOOL        := go tool -modfile=tools/go.mod
RUNNER_SRC  := $(shell find internal/runtime/oci/runner internal/runtime/shim -name '*.go' 2>/dev/null) go.mod
PULSE_SRC   := $(shell find internal/heartbeat/pulse -name '*.go' 2>/dev/null) go.mod

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install what building needs (root on Debian), or say what is missing
	@./tools/deps.sh build

.PHONY: deps-test
deps-test:
	@./tools/deps.sh test

$(EMBEDDED)/shim: $(RUNNER_SRC)
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $@ ./internal/runtime/shim/cmd

$(EMBEDDED)/runner: $(RUNNER_SRC) | deps
	CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo,seccomp \
		-ldflags '-s -w -linkmode external -extldflags "-static"' -o $@ ./internal/runtime/oci/runner

$(EMBEDDED)/pulse: $(PULSE_SRC)
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $@ ./internal/heartbeat/pulse/cmd

.PHONY: helpers
helpers: $(EMBEDDED)/shim $(EMBEDDED)/runner $(EMBEDDED)/pulse ## build the three programs that the binary embeds

.PHONY: build
build: helpers ## build bin/vortex, static
	CGO_ENABLED=0 go build -trimpath -tags netgo,osusergo -ldflags '$(LDFLAGS)' -o bin/vortex ./cmd/vortex

.PHONY: up
up: build ## build all, start Vortex, run the sample app, print URLs and what to try
	@./deploy/up.sh

.PHONY: demo
demo: build ## the main job unattended: deploy, scale 1 → 5 → 1 on real traffic, kill, heal
	@go run ./deploy/demo

.PHONY: run
run: build ## start Vortex alone in the foreground
	./bin/vortex up

.PHONY: dev
dev: build ## start Vortex with debug logs and its data in ./data
	./bin/vortex up --data "$(CURDIR)/data" --log-level debug

.PHONY: rebuild
rebuild: ## build again from nothing; data stays
	@rm -rf bin $(EMBEDDED)/shim $(EMBEDDED)/runner $(EMBEDDED)/pulse
	@$(MAKE) --no-print-directory build

.PHONY: down
down: ## stop what `make up` started, with its containers
	@./deploy/down.sh

.PHONY: logs
logs: ## follow the sample app's logs
	./bin/vortex logs hello -f

.PHONY: test
test: deps-test helpers ## run every test; installs Debian packages when root on Debian
	@./tools/test.sh

.PHONY: race
race: helpers ## run the unit tests under the race detector
	go test -race -shuffle=on $$(go list ./... | grep -Ev '/test/(cluster|e2e|edge|kind)')

.PHONY: e2e
e2e: build ## run the end-to-end tests against bin/vortex
	go test -count=1 -timeout 20m ./test/e2e/...

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME each (5s)
	./tools/fuzz.sh

.PHONY: prove
prove: build ## prove the state store: kill, cut and fill up while every answer is checked; KIND_LONG=1 takes ten times as long
	go test -v -count=1 -timeout 120m ./test/kind/...

.PHONY: prove-edge
prove-edge: ## prove the load balancer: replace, kill and change under load while every answer is checked; EDGE_LONG=1 loads for a minute each
	go test -v -count=1 -timeout 60m ./test/edge/...

.PHONY: prove-cluster
prove-cluster: build ## prove the cluster: hosts without power, frozen, cut off, with wrong clocks and full disks; CLUSTER_LONG=1 takes ten times as long, CLUSTER_CHURN=3m shortens its churn, CLUSTER_LOGS=DIR keeps the logs
	go test -v -count=1 -timeout 60m ./test/cluster/...

.PHONY: lint
lint: helpers ## golangci-lint, pinned in tools/go.mod
	$(TOOL) golangci-lint run ./...

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt ./...

.PHONY: generate
generate: ## generate records_gen.go and the gRPC code
	go generate .
	./tools/proto.sh

.PHONY: check
check: ## generated code is fresh, modules are tidy, code is formatted
	./tools/check.sh

.PHONY: cover
cover: helpers ## test coverage of the unit tests
	go test -coverprofile=coverage.out $$(go list ./... | grep -Ev '/test/(cluster|e2e|edge|kind)') && go tool cover -func=coverage.out | tail -1

.PHONY: bench
bench: bench-main bench-kind bench-edge ## run every benchmark

.PHONY: bench-main
bench-main: build ## the main job's figures beside docker and runc
	@./bench/main.sh

.PHONY: bench-kind
bench-kind: build ## the state store's figures beside etcd
	@./bench/kind.sh

.PHONY: bench-edge
bench-edge: build ## the load balancer's figures beside nginx and HAProxy
	@./bench/edge.sh

.PHONY: bench-idle
bench-idle: ## 50,000 idle connections beside nginx and HAProxy, in a virtual machine that allows so many
	@./bench/idle.sh

.PHONY: bench-cluster
bench-cluster: ## how fast a node's failure is known, and what knowing costs
	@./bench/cluster.sh

.PHONY: ci
ci: ## what has to pass before a change is merged: test, lint, check, demo
	@./.ci/run

.PHONY: image
image: build ## build the image vortex:latest with the Docker Engine
	docker build -q -t vortex:latest -f deploy/Dockerfile bin

.PHONY: clean
clean: down ## stop Vortex, remove what was built and ./data
	rm -rf bin dist data coverage.out examples/hello/hello $(EMBEDDED)/shim $(EMBEDDED)/runner $(EMBEDDED)/pulse
