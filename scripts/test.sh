#!/usr/bin/env bash
# Set up .venv, then the check and every layer of tests that this machine can run as it is; what is
# left out is named with its reason. --all (root, Debian/Ubuntu) first installs what the other
# layers need, and leaves nothing out.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: ${0##*/} [--all] [PYTEST ARGUMENTS...]" >&2; exit 2; }
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

# program it brings -> Debian package
install_packages() {
  local pair missing=()
  [[ $EUID -eq 0 ]] || fail "--all installs packages: run it as root"
  command -v apt-get >/dev/null || fail "--all needs apt-get (Debian or Ubuntu)"
  for pair in slurmctld:slurmctld slurmd:slurmd srun:slurm-client g++:g++ make:make cmake:cmake \
    shellcheck:shellcheck ip:iproute2 unshare:util-linux git:git; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  echo "installing ${missing[*]} ..."
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
}

install_horovod() {
  local program
  for program in g++ make cmake; do
    command -v "$program" >/dev/null && continue
    .venv/bin/python -c 'import horovod.torch' 2>/dev/null ||
      echo "Horovod is not built: $program is missing"
    return 0
  done
  scripts/install-horovod.sh --python "$PWD/.venv/bin/python"
}

case ${1:-} in
  --all) shift; PATH=$PATH:/usr/sbin:/sbin; install_packages; export CI=true ;;
  -h | --help) usage ;;
esac
make_environment dev
PATH=$PWD/.venv/bin:$PATH
install_horovod
scripts/check
.venv/bin/python -m tests.layers
exec .venv/bin/python -m pytest "$@"
