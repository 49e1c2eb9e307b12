# Habits. Everything here also works as plain go commands; see README.md.
GO ?= go

.PHONY: build test race lint proto bench smoke chaos compare

build:            ## the binary, at bin/pontoon
	$(GO) build -o bin/pontoon ./cmd/pontoon

test:             ## what the README promises
	$(GO) test ./...

race:             ## the race detector on everything concurrent
	$(GO) test -race ./...

lint:
	test -z "$$(gofmt -l .)"
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

proto:            ## regenerate proto/pontoonpb (needs protoc 3.21 and the two plugins named here)
	GOBIN=$(CURDIR)/bin $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
	GOBIN=$(CURDIR)/bin $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	PATH=$(CURDIR)/bin:$$PATH protoc -I proto/pontoonpb --go_out=. --go_opt=module=github.com/pontoon-kv/pontoon \
		--go-grpc_out=. --go-grpc_opt=module=github.com/pontoon-kv/pontoon proto/pontoonpb/*.proto

bench:
	$(GO) test -run '^$$' -bench . ./...

chaos:            ## kill nodes of a real cluster under load, check what clients saw
	$(GO) test ./e2e/chaos -count=1 -v -run TestKillNodes -chaos.duration=2m

smoke:            ## the real etcdctl against pontoon dev
	.ci/run smoke

compare:          ## side by side with etcd under its own benchmark
	cd e2e/peers && $(GO) run ./compare
