# Two commands to start with: make run, make test. Everything else is named in README.md.
.PHONY: build run test test-all race lint demo demo-s3 stack suites compare-kafka crash sim bench bench-kafka fuzz image-check clean help

GO ?= go
FUZZTIME ?= 10s
ROUNDS ?= 200
SCHEDULES ?= 2000
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
PACKAGES = ./agent/... ./metadata/... ./objectstore/... ./tiering/... ./infra/... ./localstack/...

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/varve, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/varve ./agent

run: build ## Start one agent on SQLite and a folder
	@echo 'Once it says "ready", paste into another terminal:'
	@echo '  bin/varve topic create hello --partitions 3'
	@echo '  seq 1 1000 | bin/varve produce hello'
	@echo '  bin/varve consume hello --from beginning --until-end | tail -3'
	@echo '  bin/varve storage ls'
	@echo
	bin/varve dev

test: ## Everything that needs nothing but Go, within three minutes
	$(GO) test $(PACKAGES)

test-all: build ## Everything, with every service and client; a missing one is a failure
	localstack/e2e/install
	VARVE_TEST_ALL=1 VARVE_TEST_S3=1 VARVE_TEST_PG=1 $(GO) test -timeout 20m $(PACKAGES)

race: ## The product's packages under the race detector
	$(GO) test -race -short -timeout 20m ./agent/... ./metadata/... ./objectstore/... ./tiering/...

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l agent metadata objectstore tiering infra localstack); test -z "$$unformatted" || { echo "not gofmt'ed: $$unformatted"; exit 1; }
	$(GO) vet $(PACKAGES)
	$(GO) run $(STATICCHECK) -checks inherit,-ST1005 $(PACKAGES) # ST1005: Kafka is a name

demo: build ## A public data set in, into segments, evicted, and byte for byte out again
	$(GO) run ./localstack/demo -varve bin/varve

demo-s3: build ## The same with millions of records on Postgres and an S3 server, through both drivers
	$(GO) run ./localstack/demo -varve bin/varve -data flights-3m -stores s3,minio

stack: build ## Postgres, an S3 server and an agent in front of them, until Ctrl-C
	$(GO) run ./localstack/stack

bench: ## The agent against the least that a process must do; BENCH holds flags, such as -only or -runs
	$(GO) run ./localstack/bench $(BENCH)

bench-kafka: ## The same, and Apache Kafka beside it in the same run
	localstack/e2e/install java
	$(GO) run ./localstack/bench -brokers varve,floor,kafka $(BENCH)

suites: build ## The tests of franz-go, librdkafka and sarama against an agent (needs a C compiler)
	$(GO) run ./localstack/suites -varve bin/varve

compare-kafka: build ## The same requests to Varve and to Apache Kafka; writes the table of differences (needs Java)
	localstack/e2e/install java
	$(GO) run ./localstack/compare

crash: build ## kill -9 under load, ROUNDS of it on each store; stores and the database away for a minute (needs Postgres)
	VARVE_TEST_ALL=1 $(GO) test ./localstack/chaos -count=1 -timeout 6h -rounds $(ROUNDS) -v

sim: ## SCHEDULES of the simulator, 120 virtual seconds each
	VARVE_SIM=$(SCHEDULES) $(GO) test ./localstack/sim -count=1 -timeout 6h -run 'TestSchedules|TestEveryBugCanBePlanted' -v

fuzz: ## Every fuzz target for FUZZTIME each
	@for pkg in $$($(GO) list $(PACKAGES)); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "fuzz $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

image-check: ## Build the container image and start it once (needs a Docker engine, as root)
	infra/docker/check

clean: ## Remove what build made
	rm -rf bin
