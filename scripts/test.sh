#!/usr/bin/env bash
# Set up .venv, then the check and every layer of tests that this machine can run as it is; what is
# left out is named with its reason. --all (root, Debian/Ubuntu) first installs what the other
# layers need, and leaves nothing out. Labs and rig work beside the other layers; a test that failed
# in that crowd gets one more try alone, by name. --full: all combinations of strategy, backend,
# transport, world, optimizer and precision, where otherwise each strategy gets a few.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: ${0##*/} [--all] [--full] [PYTEST ARGUMENTS...]" >&2; exit 2; }
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

# program it brings -> Debian package
install_packages() {
  local pair missing=()
  [[ $EUID -eq 0 ]] || fail "--all installs packages: run it as root"
  command -v apt-get >/dev/null || fail "--all needs apt-get (Debian or Ubuntu)"
  for pair in slurmctld:slurmctld slurmd:slurmd srun:slurm-client g++:g++ make:make cmake:cmake \
    shellcheck:shellcheck ip:iproute2 unshare:util-linux git:git ssh:openssh-client \
    sshd:openssh-server nft:nftables mmdebstrap:mmdebstrap systemd-nspawn:systemd-container \
    qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils mke2fs:e2fsprogs; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
  if [[ ${#missing[@]} -gt 0 ]]; then
    echo "installing ${missing[*]} ..."
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
  fi
  command -v terraform >/dev/null || scripts/install-terraform.sh
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

# stream -> its tests. The guests' software emulation needs the machine for itself; the others run
# beside each other, since labs and rig mostly wait for their hosts and for SLURM.
declare -A tests=(
  [vm]="vm"
  [lab]="lab and not own_lab"
  [rig]="rig"
  [labs]="own_lab"
  [ranks]="ranks"
  [others]="not lab and not rig and not vm and not ranks"
)

run_streams() {
  local stream code=0 logs lab rig
  logs=$(mktemp -d)
  run_in_turn vm || code=$?
  run_in_turn lab ranks >"$logs/lab" 2>&1 & lab=$!
  # "Nothing stays of the last lab", the first of the lab, cannot be told while others are up.
  run_in_turn rig labs >"$logs/rig" 2>&1 & rig=$!
  run_in_turn others || code=$(worse "$code" $?)
  wait "$rig" || code=$(worse "$code" $?)
  wait "$lab" || code=$(worse "$code" $?)
  cat "$logs/rig" "$logs/lab"
  rm -rf "$logs"
  [[ $code -eq 1 ]] || return "$code"
  code=0
  for stream in "${!tests[@]}"; do
    [[ -e .pytest_cache/$stream/failed ]] || continue
    echo "== $stream: what failed beside the others, once more alone =="
    .venv/bin/python -m pytest -o cache_dir=".pytest_cache/$stream" --last-failed || code=$?
  done
  return "$code"
}

# pytest's 1 is a failed test; what is above it (interrupted, broken, nothing to run) is no test's.
worse() { echo $(($1 > $2 ? $1 : $2)); }

run_in_turn() {
  local stream last code=0
  for stream in "$@"; do
    echo "== $stream =="
    rm -rf ".pytest_cache/$stream"
    last=0
    .venv/bin/python -m pytest -o cache_dir=".pytest_cache/$stream" -m "${tests[$stream]}" \
      --durations 20 || last=$?
    [[ $last -ne 1 ]] || : >".pytest_cache/$stream/failed"
    code=$(worse "$code" "$last")
  done
  return "$code"
}

while [[ ${1:-} == -* ]]; do
  case $1 in
    --all) PATH=$PATH:/usr/sbin:/sbin; install_packages; export CI=true ;;
    --full) export DTO_FULL=1 ;;
    -h | --help) usage ;;
    *) break ;;
  esac
  shift
done
make_environment dev
PATH=$PWD/.venv/bin:$PATH
install_horovod
scripts/check
.venv/bin/python -m tests.layers
[[ $# -gt 0 ]] || {
  run_streams
  exit
}
exec .venv/bin/python -m pytest "$@"
