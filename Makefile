# Two targets are all a newcomer needs: demo and test.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO ?= go
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
BINARIES := bin/daypassd bin/daypass bin/fakeci

# These start real servers; `make check` leaves them to `make test`.
SERVER_TESTS := /broker/replay$$|/broker/lease$$|/broker/mint/postgres$$|/broker/mint/mysql$$|/broker/brokertest/servers$$|/broker/brokertest/npm$$|/cmd/daypassd$$
# These need Node.js and what npm installs; `make check` leaves them to `make test`, too.
NODE_TESTS := ^(Test|Fuzz)Jose

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## one CI job end to end on this machine: PostgreSQL, a toy CI provider, the broker
	@deploy/dev/need.sh postgres
	@$(GO) run ./deploy/demo --bin bin

.PHONY: test
test: ## everything: vet, staticcheck, unit and integration tests against real servers, with -race
	@deploy/dev/need.sh cc redis postgres mariadb node
	@$(MAKE) --no-print-directory lint
	$(GO) test -race -timeout 45m ./...

.PHONY: check
check: lint ## the fast part of test: no servers, no Node.js, no race detector, under a minute
	$(GO) test -skip '$(NODE_TESTS)' $$($(GO) list ./... | grep -Ev '$(SERVER_TESTS)')

.PHONY: lint
lint: ## formatting, vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(STATICCHECK) ./...

.PHONY: build
build: ## bin/daypassd, bin/daypass, bin/fakeci
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: bench
bench: ## one exchange in process and over HTTP, verification, decisions, the journal; with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: soak
soak: ## the long versions of the storms and crash tests
	@deploy/dev/need.sh cc redis postgres mariadb node
	DAYPASS_SOAK=1 $(GO) test -race -timeout 85m ./...

.PHONY: mysql
mysql: ## the tests of the mysql kind against MySQL, from Debian's unstable branch, beside what is installed
	@deploy/dev/need.sh cc mariadb
	@dir=$$(mktemp -d) && chmod 755 "$$dir" && trap 'rm -rf "$$dir"' EXIT && mysqld=$$(deploy/dev/mysql.sh "$$dir") && \
	  DAYPASS_TEST_MYSQLD="$$mysqld" $(GO) test -race -timeout 30m ./broker/mint/mysql

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s) each
	@deploy/dev/need.sh node
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

.PHONY: golden
golden: ## rewrite the golden files from what the code says now; review the diff
	@for pkg in $$($(GO) list -f '{{.Dir}}' ./...); do \
	  if grep -qs 'flag.Bool("update"' "$$pkg"/*_test.go; then $(GO) test "$$pkg" -update || exit 1; fi; done
	@git status --short

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
