#!/usr/bin/env bash
# From nothing to a trained model: installs, builds, makes data, trains YOSO and the no-attention ablation, compares them.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/install_dependencies.sh
mkdir -p build/cpu runs
echo "building (about five minutes on two cores)"
{ cmake --preset cpu && cmake --build --preset cpu --target tern --parallel "$(nproc)"; } \
  >build/cpu/build.log || { tail -n 40 build/cpu/build.log; exit 1; }
tern=build/cpu/tern

data=data/prepared/listops-short
$tern data prepare listops --out $data --train 50000 --min-length 12 --max-length 64 --depth 4 --arguments 4
for attention in none yoso; do
  $tern train configs/quickstart.yaml --set model.attention.kind=$attention --out runs/quickstart-$attention |
    tee runs/quickstart-$attention.txt
done

result() { sed -n "s/^$2  *//p" "runs/quickstart-$1.txt"; }
cat <<EOF

Test accuracy on 2,000 generated, nested list operations (short ListOps-rule data, not the LRA benchmark):
  majority class   $(result yoso "test majority class")
  no attention     $(result none "test accuracy")
  YOSO             $(result yoso "test accuracy")

Next:
  $tern evaluate runs/quickstart-yoso --hash-draws 5     how much the sampling matters
  $tern describe configs/lra/listops.yaml                the full-length task: parameters, work, memory
  $tern data prepare listops                             its data, then: $tern train configs/lra/listops.yaml
  $tern list attention                                   the other mechanisms
EOF
