#!/usr/bin/env bash
# Checks that what is generated is what the sources give, that the modules are tidy and that the code is formatted.
# The working tree stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

problems=0

# expect WHAT COMMAND… runs a check and says what to do when it fails.
expect() {
	local what=$1 output
	shift
	if output=$("$@" 2>&1); then
		echo "ok      $what"
	else
		printf 'FAILED  %s\n%s\n' "$what" "$output"
		problems=1
	fi
}

records() { go run ./internal/kind/ksl/kslgen "${generate[@]}" -check || { echo "run make generate"; false; }; }

# rpc generates in place, and puts back what was there when that differs in more than protoc's version.
rpc() {
	local before fresh=true
	before=$(mktemp -d)
	cp -r proto/. "$before"
	./tools/proto.sh
	diff -r -I '^// .*protoc' "$before" proto || fresh=false
	cp -r "$before/." proto
	rm -rf "$before"
	$fresh || { echo "run make generate"; false; }
}

tidy() { go mod tidy -diff || { echo "run go mod tidy"; false; }; }

formatted() {
	local changed
	changed=$(go tool -modfile=tools/go.mod golangci-lint fmt --diff ./...)
	[[ -z $changed ]] || { echo "$changed" | head -40; echo "run make fmt"; false; }
}

# The flags of the generator are those of the go:generate line.
mapfile -t generate < <(sed -n 's|^//go:generate go run ./internal/kind/ksl/kslgen ||p' ./*.go | tr ' ' '\n')

expect "records_gen.go is what schema/vortex.ksl gives" records
if command -v protoc >/dev/null; then
	expect "the gRPC code is what proto/ gives" rpc
else
	echo "skipped the gRPC code's freshness: no protoc"
fi
expect "go.mod is tidy" tidy
expect "the code is formatted" formatted
exit "$problems"
