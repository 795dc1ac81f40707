GO ?= go
STORE ?= bolt
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Executions, not seconds: with a deadline the fuzzer at times reports its end as
# a failure ("context deadline exceeded").
FUZZTIME ?= 30000x

# How many events to send through a relay.
EVENTS ?= 1000000

# How long to inject faults.
TORTURE ?= 40s

.PHONY: build demo test e2e check bench bench-parts bench-relay events fmt lint fuzz redis chromium torture

build: ## the flagstead binary, in bin/
	$(GO) build -trimpath -o bin/flagstead ./cmd/flagstead

demo: build ## one syncer writes, four workers read; STORE=bolt, redis or file
	./bin/flagstead demo --store $(STORE)

redis: # finds redis-server or installs it, or says how
	@./scripts/need-redis.sh

test: redis ## all tests that need no network
	$(GO) test ./...

chromium: # finds Chromium or installs it, or says how
	@./scripts/need-chromium.sh

e2e: chromium ## FeatBit's Node and JavaScript SDKs against the relay; needs node and npm
	$(GO) test -tags e2e -count=1 ./internal/e2e

fmt:
	gofmt -w $$(git ls-files '*.go')

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not formatted:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags e2e ./internal/e2e
	$(GO) run $(STATICCHECK) ./...
	cd bench && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...

fuzz: ## each fuzz target for FUZZTIME
	$(GO) test -run '^$$' -fuzz '^FuzzEvaluate$$' -fuzztime $(FUZZTIME) ./internal/flags
	$(GO) test -run '^$$' -fuzz '^FuzzReadLikeJSON$$' -fuzztime $(FUZZTIME) ./internal/flags
	$(GO) test -run '^$$' -fuzz '^FuzzPattern$$' -fuzztime $(FUZZTIME) ./internal/flags
	$(GO) test -run '^$$' -fuzz '^FuzzWalk$$' -fuzztime $(FUZZTIME) ./internal/jsonwalk
	$(GO) test -run '^$$' -fuzz '^FuzzClient$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./sdk
	$(GO) test -run '^$$' -fuzz '^FuzzParse$$' -fuzztime $(FUZZTIME) ./internal/wire
	$(GO) test -run '^$$' -fuzz '^FuzzFrames$$' -fuzztime $(FUZZTIME) ./relay
	$(GO) test -run '^$$' -fuzz '^FuzzParseToken$$' -fuzztime $(FUZZTIME) ./internal/protocol
	$(GO) test -run '^$$' -fuzz '^FuzzParseMessage$$' -fuzztime $(FUZZTIME) ./store/redis
	$(GO) test -run '^$$' -fuzz '^FuzzFrames$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./store/bolt
	$(GO) test -run '^$$' -fuzz '^FuzzClientRequest$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./relay
	$(GO) test -run '^$$' -fuzz '^FuzzBootstrap$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./relay
	$(GO) test -run '^$$' -fuzz '^FuzzParseProxyPayload$$' -fuzztime $(FUZZTIME) ./internal/wire
	$(GO) test -run '^$$' -fuzz '^FuzzRecover$$' -fuzztime $(FUZZTIME) ./internal/spool
	$(GO) test -run '^$$' -fuzz '^FuzzYAML$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./store/file

torture: redis ## kill, freeze and empty everything, and check what readers see; TORTURE=10m for long
	$(GO) run -race ./internal/torture -for $(TORTURE)

events: ## EVENTS events through a relay while FeatBit flaps and the relay dies: none is lost
	FLAGSTEAD_EVENTS=$(EVENTS) $(GO) test -v -count=1 -timeout 30m -run TestFlapping ./internal/forward

check: redis lint ## what continuous integration runs
	$(GO) test -race ./...
	$(GO) test -run Allocs ./internal/flags ./internal/insight ./sdk
	cd bench && $(GO) test ./...
	$(MAKE) fuzz
	$(MAKE) torture
	$(MAKE) e2e
	$(MAKE) demo STORE=bolt
	$(MAKE) demo STORE=redis
	$(MAKE) demo STORE=file

bench: redis ## Flagstead beside other SDKs and beside a bare loop; writes docs/benchmarks.md and its chart
	cd bench && $(GO) run ./report

bench-parts: redis ## the benchmarks of single packages
	$(GO) test -run '^$$' -bench . -benchmem ./internal/flags ./internal/insight ./internal/wire ./sdk
	$(GO) test -run '^$$' -bench . -benchtime 100x ./store/redis ./store/bolt ./store/file
	$(GO) test -v -count=1 -run 'TestCost|TestPushLatency' ./store/redis

# Connections of bench-relay.
CONNS ?= 10000

bench-relay: ## a relay's memory per connection and the time a change takes, beside a bare WebSocket server; CONNS=2000 for few
	@mkdir -p bin
	$(GO) build -o bin/relaybench ./internal/relaybench
	./bin/relaybench -n $(CONNS)
