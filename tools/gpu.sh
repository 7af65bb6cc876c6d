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
      # small cases: a kernel runs a hundred times slower under these tools
      filter='FeedForward.*:LayerNorm.*:ResidualDropoutNorm.*:TokenEmbedding.*:Softmax.*:BernoulliSample.equals*:DepthwiseConv.*:Reduce*:SparseAttention.absent*:SortedAttention.*:Landmarks.softmaxes*:Rotary.turns*:TokenMasking.*'
      for tool in memcheck racecheck synccheck initcheck; do
        # initcheck does not see the stores of cuBLAS's kernels for Hopper: a plain product and a kernel that reads it fail
        [ $tool = initcheck ] && filter=${filter#FeedForward.*:}
        compute-sanitizer --tool $tool --error-exitcode 9 $build/ops_tests --gtest_brief=1 --gtest_filter="$filter"
        compute-sanitizer --tool $tool --error-exitcode 9 $build/attention_tests --gtest_brief=1 \
          --gtest_filter='*OnCuda.unused_capacity*'
      done
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
