#!/usr/bin/env bash
# What takes too long for every change: the long commands of the docs, and the thread sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/test.sh cpu
TERN_LONG_TESTS=1 ctest --test-dir build/cpu --tests-regex Documentation --output-on-failure --timeout 7200
tools/test.sh tsan
