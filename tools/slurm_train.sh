#!/usr/bin/env bash
# Train under Slurm:
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

[ $# -ge 3 ] || fail 'usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments]'
partition=$1 job=$2 config=$3
shift 3
[[ $config == *::* || -f $config ]] || fail "$config does not exist"
command -v srun >/dev/null || fail 'srun not found: this is no Slurm machine'
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}

# shellcheck disable=SC2086  # SRUN_ARGS is a list of options
exec srun -p "$partition" --job-name="$job" --gres="gpu:$per_node" \
  --ntasks="$gpus" --ntasks-per-node="$per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$tools/train.py" "$config" --launcher slurm "$@"
