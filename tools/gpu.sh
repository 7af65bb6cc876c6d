#!/usr/bin/env bash
# On a machine with a GPU: builds, runs all tests with the GPU required, checks the kernels with compute-sanitizer, times
# both sides (PyTorch with CUDA and transformers must be importable by python3) and writes
# docs/results/{gpu,mechanisms,yoso_h100}.json.
# Arguments choose parts: build, test, sanitize, benchmark. Without any: all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export TERN_REQUIRE_CUDA=1 OPENBLAS_NUM_THREADS=1
parts=${*:-build test sanitize benchmark}
build=build/cuda

for part in $parts; do
  case $part in
    build)
      cmake --preset cuda -DTERN_BENCHMARKS=ON ${TERN_CMAKE_ARGUMENTS:-} >/dev/null
      cmake --build --preset cuda --parallel "$(nproc)"
      ;;
    test) ctest --test-dir $build --label-regex ci --no-tests=error --output-on-failure --parallel "$(($(nproc) / 2))" --timeout 600 ;;
    sanitize)
      # a kernel runs a hundred times slower under these tools: suites beside each other, racecheck on small cases alone
      check() {
        compute-sanitizer --tool "$1" --require-cuda-init=no --error-exitcode 9 "$2" --gtest_brief=1 --gtest_filter="$3" ||
          { echo "$0: $1 found errors in $3" >&2; return 9; }
      }
      export -f check
      for tool in memcheck synccheck initcheck; do
        suites=$($build/ops_tests --gtest_list_tests | grep '^[A-Z].*\.$')
        # initcheck does not see the stores of cuBLAS's kernels for Hopper: a plain product and a kernel that reads it fail
        [ $tool = initcheck ] && suites=$(grep -vE '^(FeedForward|Matmul|Linear)\.' <<<"$suites")
        sed "s|.*|$tool $build/ops_tests &*|" <<<"$suites"
        echo "$tool $build/attention_tests *OnCuda.unused_capacity*"
      done | xargs -P "$(($(nproc) / 2))" -L 1 bash -c 'check "$@"' "$0"
      check racecheck $build/ops_tests 'FeedForward.*:LayerNorm.*:ResidualDropoutNorm.*:TokenEmbedding.*:Softmax.*:BernoulliSample.equals*:DepthwiseConv.*:Reduce*:SparseAttention.absent*:SortedAttention.*:Landmarks.softmaxes*:Rotary.turns*:TokenMasking.*'
      check racecheck $build/attention_tests '*OnCuda.unused_capacity*'
      ;;
    benchmark)
      $build/tern data prepare listops
      python3 tools/peers/compare_gpu.py run --build $build --out docs/results/gpu.json \
        --listops data/prepared/listops/train.records ${TERN_IMDB_LENGTHS:+--imdb-lengths "$TERN_IMDB_LENGTHS"}
      python3 tools/peers/compare_mechanisms.py run --build $build --out docs/results/mechanisms.json \
        --plot docs/results/mechanisms.svg --seconds 0.2 --modes eager
      python3 tools/peers/compare_yoso.py run --build $build --out docs/results/yoso_h100.json
      ;;
    *) echo "$0: build, test, sanitize or benchmark, got $part" >&2; exit 2 ;;
  esac
done
