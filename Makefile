# Waggle: build, try, test. `make help` lists what there is.
# On a fresh Linux machine `make lab` needs Go and pip, and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO ?= go
# An Envoy of one's own: make lab ENVOY=/usr/bin/envoy
ENVOY ?= $(CURDIR)/.cache/envoy-1.40.0/envoy
export ENVOY
# All packages but the end-to-end tests, which have the machine to themselves.
UNIT = $$($(GO) list ./... | grep -v '/waggle/e2e')
# Two packages at once are enough for two cores, and for tests that measure time.
GOTEST = $(GO) test -race -p 2
FUZZTIME ?= 10m
RUNS ?= 20

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/waggle, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/waggle ./cmd/waggle

.PHONY: envoy
envoy: ## fetch the pinned Envoy, if it is missing (pip; no root)
	@e2e/envoy.sh '$(ENVOY)'

.PHONY: lab
lab: build envoy ## the whole of Waggle here, without Docker or root (ONCE=1: end after the story; ARGS='-f stack.yml')
	@bin/waggle lab $(if $(ONCE),--once) $(ARGS)

.PHONY: swarm-lab
swarm-lab: setup build ## the same on a real Swarm of three nodes on this machine (root)
	@e2e/swarm-lab/lab.sh up

.PHONY: swarm-lab-down
swarm-lab-down: ## take the Swarm down again, with everything it left
	@e2e/swarm-lab/lab.sh down

.PHONY: test
test: setup check unit e2e ## everything: set-up, format, vet, unit tests, real Swarm (root)

.PHONY: setup
setup: ## install what the tests need and this machine lacks (Debian packages, Envoy)
	@e2e/setup.sh
	@$(MAKE) --no-print-directory envoy

.PHONY: check
check: ## formatting and vet
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$bad" ]; then echo "not formatted (run gofmt -w):" $$bad >&2; exit 1; fi
	$(GO) vet ./...

.PHONY: unit
unit: envoy ## the tests of every room, with the race detector (no root)
	$(GOTEST) -timeout 10m $(UNIT)

.PHONY: e2e
e2e: build envoy ## real Swarm, real Envoys, real traffic (root)
	$(GO) test -count=1 -timeout 26m ./e2e/...

.PHONY: bench
bench: ## benchmarks: publishing, translation, cold start
	$(GO) test -run '^$$' -bench . -benchmem -p 1 -timeout 30m $(UNIT)

.PHONY: soak
soak: setup ## every fuzz target for FUZZTIME=10m, then all that is left to chance RUNS=20 times over, and the Swarm (hours, root)
	@for package in $(UNIT); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -parallel 2 $$package; \
		done; \
	done
	$(GOTEST) -count=$(RUNS) -timeout 4h ./control/... ./translate/... ./watcher/... ./xds/...
	WAGGLE_SOAK=1 $(GO) test -v -count=1 -timeout 1h -run 'TestServerNamesAreForgotten|TestRandomSecretNames' ./lab/ ./xds/
	WAGGLE_SOAK=1 $(GO) test -v -count=1 -timeout 4h -run 'TestSwarm$$' ./e2e/

.PHONY: docs
docs: ## docs/labels.md, from the table of keys that the parser reads
	$(GO) generate ./translate/labels
