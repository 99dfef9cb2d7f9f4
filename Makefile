# tapecast. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION)
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 20s
TESTFLAGS ?=
BENCHFLAGS ?=
SCALEFLAGS ?=
COMPOSE ?= docker compose
# What go test -json writes, for people: the last lines are the assertions that failed.
SUM := $(GO) run ./internal/testsum
SHOW := $(SUM) -all-but '^ *=== '

.PHONY: prove prove-sim prove-processes prove-controls soak recovery autobahn prove-clients help run build test check lint fuzz bench bench-peers bench-compare bench-scale bench-docs bench-micro loadtest docker up down test-stack clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: ## tapecast dev: one process, nothing else installed
	$(GO) run -ldflags '$(LDFLAGS)' ./cmd/tapecast dev

build: ## bin/tapecast
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/tapecast ./cmd/tapecast

test: check ## everything: unit, race, conformance on kfake and Apache Kafka, whole pipeline, clients of other languages
	(cd bench && $(GO) test -json -timeout 10m ./...) | $(SUM)
	@report=$$(mktemp); trap 'rm -f $$report' EXIT; \
	export TAPECAST_TEST_REPORT=$$report; \
	$(GO) test -json -race -timeout 30m $(TESTFLAGS) ./... | $(SUM)

check: ## formatting, vet, tidy modules
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "not gofmt-ed: $$bad"; exit 1; fi
	$(GO) vet ./...
	$(GO) mod tidy -diff
	cd bench && $(GO) vet ./... && $(GO) mod tidy -diff

lint: ## golangci-lint (builds it the first time, about 3 minutes)
	$(GO) run $(GOLANGCI) run ./...

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; done; done

bench: ## gateway, fan-out, whole hop, replay, storm, memory beside the raw socket; about 15 minutes, wants a quiet machine (docs/PERFORMANCE.md)
	cd bench && $(GO) run . $(BENCHFLAGS)

bench-peers: ## the gateway's works beside centrifuge, nats-server and gorilla
	cd bench && $(GO) run . -peers -work S1,S2,S3,one,idle -history peers.jsonl $(BENCHFLAGS)

bench-compare: ## the last two runs of `make bench` side by side
	cd bench && $(GO) run . -compare

bench-scale: ## nodes, Kafka bytes and money for a number of clients, from the last `make bench` (docs/SCALING.md)
	cd bench && $(GO) run . scale $(SCALEFLAGS)

bench-docs: ## the tables of docs/PERFORMANCE.md and docs/SCALING.md, from the last runs
	cd bench && $(GO) run . docs ../docs/PERFORMANCE.md ../docs/SCALING.md

bench-micro: ## the Go benchmarks of all packages
	$(GO) test -run '^$$' -bench . -benchmem ./...

PROVE_FOR ?= 200s
PROVE_DELIVERIES ?= 5000000
PROVE_TIMEOUT ?= 60m
SEEDS ?= 1000
FIRST ?= 1
LANES ?= 40
prove: prove-sim prove-processes ## the proof of a commit: SEEDS simulated histories, PROVE_FOR of faults on three brokers, every client's history checked

prove-processes: ## its second part alone: processes on three Apache Kafka brokers, topics that change, a log that is cut
	TAPECAST_TEST_REQUIRE_KAFKA=1 TAPECAST_TEST_PROVE=$(PROVE_FOR) TAPECAST_TEST_PROVE_DELIVERIES=$(PROVE_DELIVERIES) \
	  $(GO) test -count 1 -timeout $(PROVE_TIMEOUT) -run '^TestProve$$' -json ./internal/e2e | $(SHOW)
	TAPECAST_TEST_REQUIRE_KAFKA=1 TAPECAST_TEST_PROVE=1m $(GO) test -count 1 -timeout $(PROVE_TIMEOUT) -run '^(TestTopicsChange|TestACutLogIsTold)$$' -json ./internal/e2e | $(SHOW)

prove-sim: ## its first part alone: SEEDS histories of the model and of the simulation, LANES over TCP (about a minute and a half)
	TAPECAST_MODEL_SEEDS=$(SEEDS) TAPECAST_MODEL_FIRST=$(FIRST) $(GO) test -count 1 -run '^TestModel$$' -json ./internal/coverage | $(SHOW)
	TAPECAST_TEST_SIM_SEEDS=$(SEEDS) TAPECAST_TEST_SIM_FIRST=$(FIRST) $(GO) test -count 1 -timeout 30m -run 'TestSimulation|TestKeptSeeds' -json ./internal/sim | $(SUM) -all-but '^ *(=== |--- PASS)'
	TAPECAST_TEST_LANES_SEEDS=$(LANES) TAPECAST_TEST_LANES_FIRST=$(FIRST) TAPECAST_TEST_LANES_STEPS=300 $(GO) test -count 1 -timeout 30m -run '^TestLanesAgainstAModel$$' -json ./gateway | $(SUM) -all-but '^ *(=== |--- PASS)'

# How many there are at least: a test that was renamed runs nothing, and go test is content with that.
CONTROLS = 39
prove-controls: ## the proof's own proof: each known-bad behaviour has to turn it red
	@out=$$(mktemp); trap 'rm -f $$out $$out.*' EXIT; status=0; \
	{ bad=0; \
	  $(GO) test -count 1 -tags provebad -timeout 20m -run '^TestControls$$' -json ./internal/sim || bad=1; \
	  $(GO) test -count 1 -tags provebad -timeout 20m -run '^TestLaneControls$$' -json ./gateway || bad=1; \
	  $(GO) test -count 1 -timeout 20m -run '^TestAMeddlingProxyIsNoticed$$' -json ./internal/e2e || bad=1; \
	  $(GO) test -count 1 -timeout 20m -run '^TestEachRuleTakenBackTurnsTheModelRed$$' -json ./internal/coverage || bad=1; \
	  exit $$bad; } 2>&1 | $(SHOW) >$$out 2>&1 || status=1; \
	sed -nE 's|^ *--- PASS: TestEachRuleTakenBackTurnsTheModelRed/(.*) \(.*|control  \1 red|p; s|^ *--- FAIL: TestEachRuleTakenBackTurnsTheModelRed/(.*) \(.*|control  \1 GREEN|p' $$out >$$out.rules; \
	grep -h '^control ' $$out $$out.rules | tee $$out.red || true; \
	red=$$(grep -cE ' red( |$$)' $$out.red) || true; \
	if [ $$status != 0 ]; then cat $$out; fi; \
	if [ $$red -lt $(CONTROLS) ]; then echo "$$red controls are red, not $(CONTROLS)"; status=1; fi; exit $$status

SOAK ?= 1h
soak: ## simulation and faults for SOAK, with seeds that nobody has seen
	@end=$$(( $$(date +%s) + $$(echo $(SOAK) | sed 's/h/*3600/; s/m/*60/; s/s//') )); \
	while [ $$(date +%s) -lt $$end ]; do TAPECAST_TEST_SIM_LONG=1 $(MAKE) prove FIRST=$$(date +%s) SEEDS=1000 PROVE_FOR=10m PROVE_DELIVERIES=0 || exit 1; done

recovery: ## how long feeds pause, as a table (docs/RELIABILITY.md)
	TAPECAST_TEST_STORM=$${TAPECAST_TEST_STORM:-10000} TAPECAST_TEST_REQUIRE_KAFKA=1 TAPECAST_TEST_PROVE=1m $(GO) test -count 1 -timeout 30m -run '^TestRecoveryTimes$$' -json ./internal/e2e | $(SHOW)

autobahn: ## WebSocket conformance: Autobahn cases 1 to 7 and 10
	TAPECAST_TEST_REQUIRE_PYTHON=1 $(GO) test -count 1 -run '^TestAutobahn$$' -json ./gateway | $(SHOW)

loadtest: build ## the verifier against a running `make run`
	bin/tapecast loadtest

docker: ## the image of all subcommands, tapecast:dev
	TAPECAST_BUILD=$(VERSION) TAPECAST_COMMIT=$$(git rev-parse HEAD 2>/dev/null) TAPECAST_DATE=$$(date -u +%Y-%m-%dT%H:%M:%SZ) $(COMPOSE) build

up: docker ## the local stack: Kafka, registry, several of each role, nginx, Prometheus, Grafana (docs/QUICKSTART.md)
	$(COMPOSE) up -d --wait

down: ## stop the local stack; its data stays
	$(COMPOSE) down

test-stack: ## the tour of docs/QUICKSTART.md on a stack of its own, from nothing (Docker, about 7 minutes)
	TAPECAST_TEST_STACK=1 $(GO) test -count=1 -json -timeout 40m -run TestTour ./internal/stacktest | $(SHOW)

prove-clients: ## both clients against a gateway killed and restarted 100 times under load (needs node; ON=kafka: on Apache Kafka)
	TAPECAST_TEST_REQUIRE_NODE=1 TAPECAST_TEST_RESTARTS=$${RESTARTS:-100} TAPECAST_TEST_CLIENTS_ON=$${ON:-kfake} TAPECAST_TEST_REQUIRE_KAFKA=1 \
	  $(GO) test -count 1 -json -timeout 120m -run '^TestClientsOfAGatewayThatIsKilled$$' ./internal/e2e | $(SHOW)

clean:
	rm -rf bin tapecast-data
