#!/usr/bin/env bash
# What takes too long for every change: the tests labelled nightly, the thread sanitizer, long commands of the docs.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/test.sh cpu
ctest --test-dir build/cpu --label-regex nightly --output-on-failure --timeout 7200
tools/test.sh tsan
