#!/usr/bin/env bash
# Installs what building or testing needs: as root on Debian by itself, elsewhere it says what is missing.
#   deps.sh build | test | bench
set -euo pipefail

build=(gcc libc6-dev libseccomp-dev pkg-config)
test=("${build[@]}" docker.io iproute2 nftables iptables protobuf-compiler etcd-server)
bench=("${test[@]}" runc wrk)

declare -n wanted=${1:?build, test or bench}

missing() {
	local package
	for package in "${wanted[@]}"; do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
	done
}

if ! command -v dpkg-query >/dev/null; then
	echo "not Debian: please install the equivalents of: ${wanted[*]}" >&2
	exit 0
fi
mapfile -t packages < <(missing)
((${#packages[@]})) || exit 0
if ((EUID != 0)); then
	echo "missing: ${packages[*]}; install them with: sudo apt-get install ${packages[*]}" >&2
	[[ $1 == test ]] && exit 0 # tests that need them skip and say so
	exit 1
fi
echo "installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
