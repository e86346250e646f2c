#!/usr/bin/env bash
# Evaluate on several processes:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
# NNODES, NODE_RANK, MASTER_ADDR, PORT: for several machines. Without GPUs: gloo on CPU.
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" test.py 2 "$@"
