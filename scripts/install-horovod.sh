#!/usr/bin/env bash
# Build Horovod 0.28.1 for the torch of a virtual environment and install it there.
# The wheel is kept in ${XDG_CACHE_HOME:-~/.cache}/dto/wheels, so only the first time takes minutes.
set -euo pipefail

version=0.28.1
sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0

usage() {
  echo "usage: ${0##*/} [--python PYTHON]   (default: the active environment, else .venv here)" >&2
  exit 2
}
fail() { echo "error: $*" >&2; exit 1; }

python=
while [[ $# -gt 0 ]]; do
  case $1 in
    --python) [[ $# -ge 2 ]] || usage; python=$2; shift 2 ;;
    *) usage ;;
  esac
done
here=$(cd "$(dirname "$0")/.." && pwd)
if [[ -z $python ]]; then
  python=${VIRTUAL_ENV:-$here/.venv}/bin/python
fi
[[ -x $python ]] || fail "no Python at $python: make an environment first, or pass --python"

key=$("$python" - <<'PY'
import platform, sys, torch
print(f"{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}")
PY
) || fail "torch is not installed for $python; Horovod is built against it"

works() { "$python" -c "import horovod.torch as h; assert h.gloo_built()" >/dev/null 2>&1; }
if works; then
  echo "Horovod $version is there and works with torch ${key%%-cp*}"
  exit 0
fi

options=(HOROVOD_CPU_OPERATIONS=GLOO)
if command -v nvcc >/dev/null && "$python" -c "import sys, torch; sys.exit(torch.version.cuda is None)"; then
  options+=(HOROVOD_GPU_OPERATIONS=NCCL)
  key+=-nccl
fi
wheels=${XDG_CACHE_HOME:-$HOME/.cache}/dto/wheels/horovod-$version-torch-$key
install() { "$python" -m pip install -q --disable-pip-version-check --force-reinstall --no-deps "$1"; }

"$python" -m pip install -q --disable-pip-version-check setuptools wheel packaging cffi cloudpickle \
  psutil PyYAML
kept=("$wheels"/horovod-*.whl)
if [[ -f ${kept[0]} ]]; then
  install "${kept[0]}"
  if works; then
    echo "installed Horovod $version from ${kept[0]}"
    exit 0
  fi
  echo "the kept wheel does not work here: building again" >&2
fi

for program in cmake make g++; do
  command -v "$program" >/dev/null ||
    fail "$program is missing: Horovod is compiled (Debian/Ubuntu: apt-get install g++ make cmake)"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "building Horovod $version for torch ${key%%-cp*} (${options[*]}); it takes a few minutes ..."
# pip runs the archive's setup.py for its metadata: that needs the setuptools installed above.
"$python" -m pip download -q --disable-pip-version-check --no-deps --no-build-isolation \
  --no-binary horovod --dest "$work" "horovod==$version"
archive=$work/horovod-$version.tar.gz
echo "$sha256  $archive" | sha256sum --check --quiet || fail "the source archive is not the known one"
tar -xzf "$archive" -C "$work"
source=$work/horovod-$version
# Horovod asks for C++14, in which the headers of today's torch do not compile.
sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 20/' \
  "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
log=$work/build.log
if ! env HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 \
  HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 CMAKE_POLICY_VERSION_MINIMUM=3.5 \
  MAKEFLAGS="-j$(nproc)" "${options[@]}" PATH="$(dirname "$python"):$PATH" \
  timeout 3600 "$python" -m pip wheel -v --disable-pip-version-check --no-deps --no-build-isolation \
  --wheel-dir "$work/wheel" "$source" >"$log" 2>&1; then
  grep -m 5 -n "error" "$log" >&2 || true
  tail -n 20 "$log" >&2
  fail "Horovod did not build; the last lines are above"
fi
mkdir -p "$wheels"
built=("$work"/wheel/horovod-*.whl)
# Beside, then renamed: two builds at once leave one whole wheel.
cp "${built[0]}" "$wheels/.$$.partial"
mv "$wheels/.$$.partial" "$wheels/${built[0]##*/}"
install "${built[0]}"
works || fail "Horovod was built but cannot be imported: $("$python" -c 'import horovod.torch' 2>&1 | tail -n 1)"
echo "installed Horovod $version; the wheel is kept in $wheels"
