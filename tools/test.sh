#!/usr/bin/env bash
# Installs, builds and runs all tests. The argument names the preset: cpu (default), asan, tsan or cuda.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-cpu}

tools/install_dependencies.sh
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" --parallel "$(nproc)"
ctest --test-dir "build/$preset" --label-regex ci --output-on-failure --parallel "$(nproc)" --timeout 600
