#!/usr/bin/env bash
# Makes .venv with the tested environment; does nothing when it is there already.
#   tools/setup_env.sh            (PYTHON=python3.11 KD_MM_VENV=.venv by default)
# Compiling mmcv's operators takes about 11 minutes on two cores, once: pip keeps the wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${KD_MM_VENV:-.venv}
log=$venv/setup.log
want=$(cat requirements.txt tools/setup_env.sh | cksum)

say() { printf '\033[1m[env]\033[0m %s\n' "$*"; }
fail() { printf '[env] error: %s\n' "$*" >&2; exit 1; }

ready() { [ -f "$venv/.ready" ] && [ "$(cat "$venv/.ready")" = "$want" ]; }
# kd_mm/.mim is made by the editable install and lost by a cleaned checkout.
ready && [ -e kd_mm/.mim/configs ] && [ -e kd_mm/.mim/tools ] && exit 0

# 1. what the machine must have
python=${PYTHON:-}
for candidate in python3.11 python3.12 python3.10 python3; do
  [ -n "$python" ] && break
  "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' \
    2>/dev/null && python=$candidate
done
[ -n "$python" ] || fail "no Python 3.10-3.12 with venv found; install python3.11 or set PYTHON=/path/to/it"
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null ||
  fail "$python is not Python 3.10-3.12"
command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler (g++): mmcv's operators cannot be compiled; install g++ or set CXX"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
[ -f "$header" ] || fail "no Python headers ($header): install the python3-dev package of $python"
free_gb=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
[ -d "$venv" ] || [ "$free_gb" -ge 10 ] || fail "only $free_gb GB free here; the environment takes 10 GB"

# 2. a step prints its name, its time and, when it fails, the end of its log
step() {
  local name=$1 start=$SECONDS; shift
  say "$name ..."
  printf '\n== %s\n' "$*" >>"$log"
  "$@" >>"$log" 2>&1 & local job=$!
  while kill -0 $job 2>/dev/null; do
    for _ in $(seq 60); do sleep 0.5; kill -0 $job 2>/dev/null || break; done
    kill -0 $job 2>/dev/null && say "  still at it, $((SECONDS - start)) s"
  done
  wait $job || { tail -n 25 "$log" >&2; fail "'$name' failed; the whole log is in $log"; }
  say "  done in $((SECONDS - start)) s"
}

mkdir -p "$venv"
[ -x "$venv/bin/python" ] || step "virtual environment in $venv ($("$python" --version))" "$python" -m venv "$venv"
py=$venv/bin/python
pin() { grep -E "^$1==" requirements.txt; }
pip() { "$py" -m pip --disable-pip-version-check "$@"; }

install_kd_mm() {
  step "kd_mm, editable" pip install --no-build-isolation --no-deps -e .
}
ready && { install_kd_mm; exit 0; }

step "build tools" pip install 'setuptools>=80,<82' wheel ninja psutil
step "torch and torchvision (about 5 GB)" pip install "$(pin torch)" "$(pin torchvision)"
step "mmcv's operators: about 11 minutes when they are compiled for the first time" \
  env MMCV_WITH_OPS=1 MAX_JOBS="$(nproc)" "$py" -m pip install --no-build-isolation "$(pin onedl-mmcv)"
step "OpenMMLab and the rest of requirements.txt" pip install --no-build-isolation -r requirements.txt
# Both OpenCV builds get pulled in; they overwrite each other's files. The headless one needs no libGL.
if [ -d "$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cv2" ]; then
  step "one OpenCV instead of two" bash -c "
    '$py' -m pip uninstall -y opencv-python opencv-python-headless &&
    '$py' -m pip install --no-deps opencv-python-headless"
fi
install_kd_mm
step "a first import" "$py" -c "import mmcv.ops, mmdet, mmpretrain, kd_mm"
echo "$want" >"$venv/.ready"
say "ready: $venv"
