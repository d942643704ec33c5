#!/usr/bin/env bash
# Starts Vortex in the background on ./data ($VORTEX_DATA), runs the sample app on it, asks it once, and tells what to try.
# Run again, it finds the Vortex that runs and applies the sample app anew. `make down` stops everything.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/lib.sh
. deploy/lib.sh

[[ $(uname -s) == Linux ]] || fail "Vortex runs instances on Linux only; this is $(uname -s)"

if pid=$(running); then
	step "Vortex runs already (process $pid, data in $VORTEX_DATA)"
else
	step "Starting Vortex, data in $VORTEX_DATA"
	launch
	pid=$(field pid)
fi

api=$(field api) edge=$(field edge)
export VORTEX_SERVER=$api
unset VORTEX_KIND # as a setting it is where the store listens

# The sample app as an image, or, where only bare processes can be run, as a program of this machine.
spec=examples/hello/vortex-app.yaml
step "Building the sample app"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o examples/hello/hello ./examples/hello
drivers=$("$vortex" nodes -o json | tr -d ' \n' | sed -n 's/.*"drivers":\[\([^]]*\)\].*/\1/p')
case $drivers in
*'"oci"'* | *'"docker"'*)
	"$vortex" image build -q -t hello:latest examples/hello/hello >/dev/null
	;;
*)
	say "    no container runtime here (not root, no Docker Engine): running it as a plain process, without isolation"
	spec=$VORTEX_DATA/hello.yaml
	sed "s|^  image: .*|&\n  runtime: process\n  command: [$PWD/examples/hello/hello]|" examples/hello/vortex-app.yaml >"$spec"
	;;
esac

step "Applying $spec"
"$vortex" apply -f "$spec"

# get HOST PORT PATH prints the body of an answer; curl may not be installed.
get() {
	local line body=0
	exec 3<>"/dev/tcp/$1/$2"
	printf 'GET %s HTTP/1.1\r\nHost: hello.localhost\r\nConnection: close\r\n\r\n' "$3" >&3
	while IFS= read -r line <&3; do
		line=${line%$'\r'}
		if ((body)); then say "$line"; elif [[ -z $line ]]; then body=1; fi
	done
	exec 3<&-
}

address=${edge#http://}
answer=$(get "${address%:*}" "${address##*:}" /) || true
[[ $answer == Hello* ]] || fail "the sample app did not answer at $edge: ${answer:-nothing came}" "look: bin/vortex status hello; bin/vortex events"

cat <<END

${bold}$answer${plain}   ${dim}<- GET $edge/, Host: hello.localhost${plain}

  sample app         $edge/hello/
  API                $api
  API documentation  $api/docs
  metrics            $edge/metrics
  token              $VORTEX_DATA/token
  log                $log

Try:
END

try() { printf '  %-42s %s\n' "$1" "$2"; }
try "bin/vortex ps" "its instances"
try "bin/vortex scale hello 3" "more of them"
try "curl $edge/hello/exit" "one dies; bin/vortex events tells what happened"
try "bin/vortex logs hello -f" "what they write"
try "bin/vortex apply -f my-app.yaml" "your own app; examples/ has more to start from"
try "make demo" "1 → 5 → 1 instances under real traffic, with figures"
try "make down" "stop everything"
