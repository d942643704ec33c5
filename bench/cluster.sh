#!/usr/bin/env bash
# How fast a node's failure is known, and what knowing costs: make bench-cluster.
#   LOOPS=4       busy loops per core beside the watchers, in the second half
#   COUNT=200     failures of each kind
#   STEADY=30m    how long to look for false suspicions
# Nodes are processes of one machine that speak over the loopback. Real-time priority needs root or CAP_SYS_NICE.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d /tmp/vortex-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/pulse" ./internal/heartbeat/pulse/cmd
go test -c -o "$work/session.test" ./internal/session

echo "$(date --iso-8601=seconds), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), Linux $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
run() { "$work/session.test" -test.run '^$' -pulse "$work/pulse" "$@" | grep '^Benchmark'; }
for loops in 0 "${LOOPS:-4}"; do
	echo "beside $loops busy loops per core:"
	run -test.bench '^Benchmark(Frozen|Killed)$' -test.benchtime "${COUNT:-200}x" -loops "$loops" -test.timeout 1h
done
run -test.bench '^BenchmarkSteady$' -test.benchtime 1x -steady "${STEADY:-30m}" -loops "${LOOPS:-4}" -test.timeout 2h
run -test.bench '^BenchmarkHundred$' -test.benchtime 1x
