#!/usr/bin/env bash
# The load balancer's figures, beside nginx and HAProxy: make bench-edge.
#   SHORT=1     less of everything, in under a minute
#   JSON=path   also writes one JSON object a line
#   ONLY=a,b    of http, latency, tcp, udp, flood, idle, kind
# The peers are Debian's. Every proxy runs as a process of its own, on ports that are free.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin
./tools/deps.sh bench
for program in nginx haproxy wrk taskset; do
	command -v $program >/dev/null || { echo "bench-edge needs $program" >&2; exit 1; }
done

work=$(mktemp -d /tmp/vortex-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT
go build -trimpath -ldflags '-s -w' -o "$work/" ./internal/edge/piped ./bench/edge/backend ./bench/edge/bare ./bench/edge/reverse
go build -o "$work/edge" ./bench/edge

echo "$(date --iso-8601=seconds), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), $(awk '/MemTotal/ {printf "%.0f GB", $2 / 1048576}' /proc/meminfo), Linux $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
echo "$(nginx -v 2>&1), $(haproxy -v | head -1), wrk $(wrk -v 2>&1 | sed -n 's/^wrk \([^ ]*\).*/\1/p'), $(go version | cut -d' ' -f3-), $(./bin/vortex version)"
arguments=(-programs "$work")
[[ -n ${SHORT:-} ]] && arguments+=(-short)
[[ -n ${JSON:-} ]] && arguments+=(-json "$JSON")
[[ -n ${ONLY:-} ]] && arguments+=(-only "$ONLY")
"$work/edge" "${arguments[@]}"
echo "load afterwards $(cut -d' ' -f1-3 /proc/loadavg)"
