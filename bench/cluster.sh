#!/usr/bin/env bash
# How fast a node's failure is known, what knowing costs, and memberlist and Docker Swarm beside it: make bench-cluster.
#   LOOPS=4       busy loops per core beside the watchers, in the second half
#   COUNT=100     failures of each kind
#   STEADY=1m     how long to look for false suspicions; 30m is what the limit is of
#   ROUNDS=2      machines to lose of each kind, with Vortex and with Swarm
#   ONLY=a,b      of detect, peers, steady, cost, nodes, swarm, leader, lead
#   CLUSTER_DEATHS=30  leaders that are killed for `lead`
#   JSON=path     also writes one JSON object a line
# `detect`, `peers` and `steady` have nodes that are processes of this machine and speak over its loopback; `nodes` and `swarm` have the built binary and
# dockerd in network namespaces of their own. It needs root: for real-time priority, and for namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."

if ((EUID != 0)); then
	echo "bench-cluster needs root: for real-time priority, and to make network namespaces" >&2
	exit 1
fi
work=$(mktemp -d /tmp/vortex-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT
touch "$work/figures"
wants() { [[ -z ${ONLY:-} || ,$ONLY, == *,$1,* ]]; }

CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/pulse" ./internal/heartbeat/pulse/cmd
go test -c -o "$work/session.test" ./internal/session
go build -o "$work/cluster" ./bench/cluster
if wants peers; then go build -modfile=bench/cluster/memberlist.mod -o "$work/memberlist" bench/cluster/memberlist.go; fi
if wants nodes || wants swarm || wants leader || wants lead; then
	make --no-print-directory build
	go test -c -o "$work/cluster.test" ./test/cluster
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/hello" ./examples/hello
fi

count=${COUNT:-100} loops=${LOOPS:-4} steady=${STEADY:-1m}
echo "$(date --iso-8601=seconds), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), Linux $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
run() { # one benchmark
	local in=()
	[[ $1 != Cut ]] || in=(unshare -n)
	"${in[@]}" "$work/session.test" -test.run '^$' -pulse "$work/pulse" -figures "$work/figures" -test.timeout 2h -test.bench "^Benchmark($1)\$" "${@:2}" >"$work/log" 2>&1 ||
		{ cat "$work/log" >&2; exit 1; }
}
for l in 0 "$loops"; do
	if wants detect; then
		for what in Cut Frozen Killed; do run $what -loops "$l" -test.benchtime "${count}x"; done
	fi
	if wants peers; then "$work/memberlist" -loops "$l" -count 10 -trial 5s >>"$work/figures"; fi
done
if wants peers; then "$work/memberlist" -loops "$loops" -count "$count" -trial 5s -tune >>"$work/figures"; fi
if wants steady; then run Steady -loops "$loops" -test.benchtime 1x -steady "$steady"; fi
if wants cost; then run 'Hundred|Thousand' -test.benchtime 1x; fi
cluster() { # one measurement, with the binary
	(cd test/cluster && CLUSTER_FIGURES="$work/figures" CLUSTER_HELLO="$work/hello" CLUSTER_ROUNDS="${ROUNDS:-2}" "$work/cluster.test" -test.run "^TestFigures$1\$" -test.timeout 20m >"$work/log" 2>&1) ||
		{ cat "$work/log" >&2; exit 1; }
}
if wants nodes; then cluster OfNodes; fi
if wants swarm; then cluster OfLostWorkers; fi
if wants leader; then cluster OfLeaders; fi
if wants lead; then cluster OfLead; fi
"$work/cluster" -figures "$work/figures" ${JSON:+-json "$JSON"}
echo "load afterwards $(cut -d' ' -f1-3 /proc/loadavg)"
