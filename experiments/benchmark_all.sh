#!/bin/sh
# Everything that docs/performance.md tells of a machine, for a GPU or a CPU: sh experiments/benchmark_all.sh DIRECTORY
#
# A suite that fails does not stop the others; the last line names those that failed, and the status then is 1.
# Environment variables:
#   NUM_GRADIENT_STEPS  gradient steps of the measured annealing steps; by default 200 of the 2000 of the published
#                       configuration, and all 200 of the quick one. The column configured_seconds tells what the
#                       configured number would take.
#   BATCH_SIZES         ladders that the suite dynamics moves at once, such as 64,256,1024 for a GPU; by default those of
#                       benchmark.py.
set -eu
cd "$(dirname "$0")/.."
output=${1:?usage: benchmark_all.sh DIRECTORY}
mkdir -p "$output"
failed=""

# measure NAME FLAGS: one suite, whose rows go to NAME.json.
measure() {
    name=$1
    shift
    rm -f "$output/$name.json" # of an earlier time
    echo "== $name"
    python experiments/benchmark.py "$@" --output="$output/$name.json" || failed="$failed $name"
}

# What tells most comes first.
measure annealing_step_alanine_dipeptide --suite=annealing_step --num_rounds=3 \
    --config=experiments/configs/alanine_dipeptide.py --num_gradient_steps="${NUM_GRADIENT_STEPS:-200}"
measure annealing_step_alanine_dipeptide_quick --suite=annealing_step --num_rounds=3 \
    --config=experiments/configs/alanine_dipeptide_quick.py \
    ${NUM_GRADIENT_STEPS:+--num_gradient_steps="$NUM_GRADIENT_STEPS"}
measure kernels --suite=kernels --num_rounds=5
measure gradient_step --suite=gradient_step --num_rounds=5
measure energies --suite=energies --num_rounds=5
measure dynamics --suite=dynamics --num_rounds=5 ${BATCH_SIZES:+--batch_sizes="$BATCH_SIZES"}

if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
