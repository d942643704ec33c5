#!/usr/bin/env bash
# Stops the Vortex of ./data ($VORTEX_DATA) with its containers and its network. What was declared stays
# in the data directory: `make up` brings it back, `make clean` removes it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/lib.sh
. deploy/lib.sh

# left tells whether instances are there whose Vortex is gone: it ran without --rm, or was killed and left its run file.
left() {
	[[ -e $VORTEX_DATA/run.json ]] || compgen -G "$VORTEX_DATA/oci/instances/*" >/dev/null ||
		compgen -G "$VORTEX_DATA/process/instances/*" >/dev/null
}

stopped=0
if pid=$(running); then
	step "Stopping Vortex (process $pid) with its containers"
	halt "$pid"
	stopped=1
fi
if left && [[ -x $vortex ]]; then
	step "Removing containers that an earlier Vortex left"
	launch --api 127.0.0.1:0 --kind 127.0.0.1:0 --edge '' --etcd-client '' --etcd-peer ''
	halt "$(field pid)"
	stopped=1
fi
if ((stopped)); then
	say "stopped; the data stays in $VORTEX_DATA (make clean removes it)"
else
	say "no Vortex runs on $VORTEX_DATA"
fi
