#!/usr/bin/env bash
# What takes too long for every change: the long commands of the docs, many mutations, and the thread sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/test.sh cpu
TERN_LONG_TESTS=1 ctest --test-dir build/cpu --tests-regex Documentation --no-tests=error --output-on-failure --timeout 7200
TERN_MUTATIONS=20 ctest --test-dir build/cpu --tests-regex Mutation --no-tests=error --output-on-failure --timeout 7200
tools/test.sh tsan
