#!/usr/bin/env bash
# Makes .venv with the tested environment; does nothing when it is there and works, and
# mends it when this folder was moved.
#   tools/setup_env.sh            (PYTHON=python3.11 KD_MM_VENV=.venv by default)
# Compiling mmcv's operators takes about 11 minutes on two cores, once: pip keeps the wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${KD_MM_VENV:-.venv}
want=$(cat requirements.txt tools/setup_env.sh | cksum)

say() { printf '\033[1m[env]\033[0m %s\n' "$*"; }
fail() { printf '[env] error: %s\n' "$*" >&2; exit 1; }

# 1. what is there already
here=$(pwd -P)
case $venv in /*) ;; *) venv=$here/$venv ;; esac
[ -L "$venv" ] && [ ! -e "$venv" ] &&
  fail "$venv is a link to $(readlink "$venv"), which is gone; remove the link and try again"
[ -d "$venv" ] && venv=$(cd "$venv" && pwd -P)
py=$venv/bin/python
log=$venv/setup.log
[ -L "$py" ] && ! "$py" -c '' 2>/dev/null &&
  fail "$py does not start (was the Python that it was made with removed?); remove $venv and try again"

ready() { [ -f "$venv/.ready" ] && [ "$(cat "$venv/.ready")" = "$want" ] && found >/dev/null; }
# The checkout whose kd_mm Python imports in another folder; fails when a package is gone.
found() {
  (cd / && "$py" - 2>/dev/null) <<'END'
import importlib.util, os, sys
specs = [importlib.util.find_spec(name)
         for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'kd_mm')]
if None in specs[:-1]:
    sys.exit(1)
if specs[-1] and specs[-1].origin:
    print(os.path.dirname(os.path.dirname(os.path.realpath(specs[-1].origin))))
END
}

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

pip() { "$py" -m pip --disable-pip-version-check "$@"; }
install_kd_mm() {
  step "kd_mm, editable" pip install --no-build-isolation --no-deps -e .
  [ "$(found)" = "$here" ] || fail "in another folder Python finds kd_mm in '$(found)' and not in $here; the log is in $log"
}
# Scripts in the environment name its folder.
moved() { [ -f "$venv/bin/activate" ] && ! grep -qF "$venv" "$venv/bin/activate"; }
repair_scripts() {
  "$py" -m venv --without-pip "$venv"
  find "$venv/bin" -type f -exec sed -i "1s|^#!/.*/bin/python[0-9.]*\$|#!$py|" {} +
}

if ready; then
  mkdir -p kd_mm/.mim  # made by the editable install, lost by a cleaned checkout
  for name in configs tools model-index.yml; do
    [ -e "kd_mm/.mim/$name" ] || ln -sfn "../../$name" "kd_mm/.mim/$name"
  done
  other=$(found)
  if [ "$other" = "$here" ] && ! moved; then exit 0; fi
  case $venv in "$here"/*) ;; *)
    [ "$other" = "$here" ] || [ ! -d "$other/kd_mm" ] ||
      fail "the kd_mm in $venv is that of $other. Give this folder an environment of its own (remove a .venv that is a link, or set KD_MM_VENV), or use this one from here with 'export PYTHONPATH=$here', or hand it over: $py -m pip install --no-build-isolation --no-deps -e ." ;;
  esac
  say "$venv was made for ${other:-another folder}"
  ! moved || step "scripts" repair_scripts
  install_kd_mm
  exit 0
fi

# 3. what the machine must have
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

mkdir -p "$venv"
[ -x "$py" ] || step "virtual environment in $venv ($("$python" --version))" "$python" -m venv "$venv"
pin() { grep -E "^$1==" requirements.txt; }
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
step "a first import" bash -c "cd / && '$py' -c 'import mmcv.ops, mmdet, mmpretrain, kd_mm'"
echo "$want" >"$venv/.ready"
say "ready: $venv"
