#!/bin/sh
# Everything that docs/performance.md tells of a machine, for a GPU or a CPU: sh experiments/benchmark_all.sh DIRECTORY
set -eu
cd "$(dirname "$0")/.."
output=${1:?usage: benchmark_all.sh DIRECTORY}
mkdir -p "$output"
for suite in energies gradient_step kernels dynamics; do
    python experiments/benchmark.py --suite="$suite" --num_rounds=5 --output="$output/$suite.json"
done
for config in alanine_dipeptide alanine_dipeptide_quick; do
    python experiments/benchmark.py --suite=annealing_step --num_rounds=3 \
        --config="experiments/configs/$config.py" --output="$output/annealing_step_$config.json" \
        ${NUM_GRADIENT_STEPS:+--num_gradient_steps="$NUM_GRADIENT_STEPS"}
done
