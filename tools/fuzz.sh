#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME each (default 5s). What one finds is left in its package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
for dir in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u); do
	for target in $(go test -list '^Fuzz' "$dir" | grep '^Fuzz'); do
		printf '%s %s\n' "$dir" "$target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-5s}" "$dir" || failed=1
	done
done
exit "$failed"
