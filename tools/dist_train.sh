#!/usr/bin/env bash
# Train on several processes:  tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# NNODES, NODE_RANK, MASTER_ADDR, PORT: for several machines. Without GPUs: gloo on CPU.
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" train.py 1 "$@"
