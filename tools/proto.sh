#!/usr/bin/env bash
# Generates the gRPC code of proto/ with the plugins pinned in tools/go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -modfile=tools/go.mod -o "$bin/" \
	google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
cd proto
PATH="$bin:$PATH" protoc -I . \
	--go_out=.. --go_opt=module=vortex --go-grpc_out=.. --go-grpc_opt=module=vortex ./*/*.proto
