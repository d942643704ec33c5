#!/usr/bin/env bash
# The state store's figures, beside etcd: make bench-kind.
#   SHORT=1     less of everything, in under a minute
#   JSON=path   also writes one JSON object a line
#   ONLY=a,b    of put, get, query, watch, memory, inprocess
# etcd is built from the version that bench/peers/go.mod pins.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d /tmp/vortex-bench.XXXXXX)
cleanup() {
	trap '' INT TERM
	rm -rf "$work"
}
trap cleanup EXIT

(cd bench/peers && go build -o "$work/etcd" ./etcd)
go test -c -o "$work/kind.test" ./internal/kind
go build -o "$work/kind" ./bench/kind

echo "$(date --iso-8601=seconds), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), $(awk '/MemTotal/ {printf "%.0f GB", $2 / 1048576}' /proc/meminfo), Linux $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
echo "etcd $("$work/etcd" --version | sed -n 's/^etcd Version: //p'), $(./bin/vortex version)"
arguments=(-etcd "$work/etcd" -engine-bench "$work/kind.test")
[[ -n ${SHORT:-} ]] && arguments+=(-short)
[[ -n ${JSON:-} ]] && arguments+=(-json "$JSON")
[[ -n ${ONLY:-} ]] && arguments+=(-only "$ONLY")
"$work/kind" "${arguments[@]}"
echo "load afterwards $(cut -d' ' -f1-3 /proc/loadavg)"
