#!/usr/bin/env bash
# Train under Slurm:
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] [PYTHON=...] \
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]
# Two runs on one node need different ports: MASTER_PORT=29501.
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
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ -x "$tools/../.venv/bin/python" ] && [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] &&
    PYTHON=$tools/../.venv/bin/python
fi

# shellcheck disable=SC2086  # SRUN_ARGS is a list of options
exec srun -p "$partition" --job-name="$job" --gres="gpu:$per_node" \
  --ntasks="$gpus" --ntasks-per-node="$per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  "$PYTHON" -u "$tools/train.py" "$config" --launcher slurm "$@"
