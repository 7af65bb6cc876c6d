#!/usr/bin/env bash
# Installs, builds and runs all tests. The argument names the preset: cpu (default), asan, tsan or cuda.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-cpu}

extra=()
if [ "$preset" = tsan ]; then extra=(libomp-dev); fi
tools/install_dependencies.sh "${extra[@]}"
cmake --preset "$preset" -DTERN_TESTS=ON >/dev/null
cmake --build --preset "$preset" --parallel "$(nproc)"
ctest --test-dir "build/$preset" --label-regex ci --no-tests=error --output-on-failure --parallel "$(nproc)" --timeout 600
