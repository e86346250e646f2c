#!/usr/bin/env bash
# Common part of dist_train.sh and dist_test.sh:
#   dist_run.sh TOOL NUMBER_OF_FILES FILE... GPUS [arguments of the tool]
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tool=$1 count=$2
shift 2
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

[ $# -gt "$count" ] || fail "usage: tools/dist_${tool%.py}.sh FILE... GPUS [arguments]"
files=("${@:1:count}")
gpus=${*:count+1:1}
shift $((count + 1))
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "the number of processes must be a number, got '$gpus'"
for file in "${files[@]}"; do  # said once here, rather than by every process
  [[ $file == *::* || $file == *://* || -f $file ]] || fail "$file does not exist"
done

if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ -x "$tools/../.venv/bin/python" ] && [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] &&
    PYTHON=$tools/../.venv/bin/python
fi
nnodes=${NNODES:-1}
if [ -z "${PORT:-}" ]; then
  PORT=29500
  if [ "$nnodes" = 1 ]; then  # any free one: two runs on one machine do not collide
    PORT=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
  fi
fi
if [ -z "${OMP_NUM_THREADS:-}" ]; then  # torchrun's default is 1, which idles a CPU run
  threads=$(($(nproc) / gpus))
  OMP_NUM_THREADS=$((threads < 1 ? 1 : threads > 16 ? 16 : threads))
fi
export OMP_NUM_THREADS

exec "$PYTHON" -m torch.distributed.run \
  --nnodes="$nnodes" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$PORT" \
  "$tools/$tool" "${files[@]}" --launcher pytorch "$@"
