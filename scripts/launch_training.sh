#!/usr/bin/env bash
# usage: launch_training.sh --config FILE [--slurm] [-N NODES] [-g GPUS] [-n RANKS] [SETTINGS...]
# Trains as a configuration file says (examples/config.yaml), on this machine or by SLURM.
#   --slurm    submit it to SLURM; -N NODES does so, too
#   -N NODES   spread the ranks evenly over so many nodes
#   -g GPUS    ask for so many GPUs on each node; without it one for each rank where the cluster
#              has GPUs
#   -n RANKS   ranks in all, instead of the file's num_gpus
#   SETTINGS   any setting of the file, as a flag that comes first: --epochs 5
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
usage() { sed -n '2s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
refuse() { echo "${0##*/}: $*" >&2; exit 2; }

config='' nodes='' gpus='' by_slurm=false settings=()
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help) sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}"; exit ;;
    --slurm) by_slurm=true; shift; continue ;;
    --config=*) config=${1#*=}; shift; continue ;;
  esac
  [[ $# -ge 2 ]] || refuse "$1 needs a value"
  case $1 in
    --config) config=$2 ;;
    -N | --nodes) nodes=$2 by_slurm=true ;;
    -g | --gpus-per-node) gpus=$2 ;;
    -n | --ranks) settings+=(--num_gpus "$2") ;;
    --*) settings+=("$1" "$2") ;;
    *) usage ;;
  esac
  shift 2
done
[[ -n $config ]] || usage
[[ ${nodes:=1} =~ ^[1-9][0-9]{0,5}$ ]] || refuse "-N is '$nodes': give a number of nodes"
[[ -z $gpus || $by_slurm == true ]] || refuse "-g asks SLURM for GPUs: add --slurm"
[[ $config == /* ]] || config=$PWD/$config

# The dto of this checkout if it has one, else what is installed, else it is installed here.
dto=$root/.venv/bin/dto
[[ -x $dto ]] || dto=$(command -v dto) || {
  # shellcheck source=scripts/environment.sh
  (cd "$root" && source scripts/environment.sh && make_environment examples)
  dto=$root/.venv/bin/dto
}
python=$(dirname -- "$(readlink -f -- "$dto")")/python
[[ -x $python ]] || python=python3
train=("$root/examples/train.py" --config "$config" "${settings[@]}")

ranks=$("$python" "${train[@]}" --check) || exit
(( ranks % nodes == 0 )) || refuse "$ranks ranks cannot be spread evenly over $nodes nodes"
each=$((ranks / nodes))
[[ $by_slurm == true ]] || exec "$dto" run -n "$each" "${train[@]}"

if [[ -z $gpus ]]; then
  gpus=0
  kinds=$(sinfo --noheader --format %G 2>/dev/null) || kinds=''
  [[ $kinds != *gpu* ]] || gpus=$each
fi
echo "${0##*/}: $ranks ranks on $nodes nodes, with $gpus GPUs of each (-g says otherwise)" >&2
ask=()
[[ $gpus == 0 ]] || ask=(-g "$gpus")
exec "$dto" submit -N "$nodes" -n "$each" "${ask[@]}" "${train[@]}"
