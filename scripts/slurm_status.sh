#!/usr/bin/env bash
# usage: slurm_status.sh    this cluster's nodes, partitions, GPUs, queue and recent jobs
# Leaves with 3 where there is no SLURM, or where its controller does not answer within 20 s.
set -euo pipefail

case ${1:-} in
  -h | --help) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
  "") ;;
  *) echo "usage: ${0##*/}" >&2; exit 2 ;;
esac

die() { echo "slurm_status.sh: $*" >&2; exit 3; }
ask() { timeout 20 "$@" 2>/dev/null; }
section() { printf '\n%s\n' "$1"; }

for program in scontrol sinfo squeue; do
  command -v "$program" >/dev/null || die "no $program here: run this on a machine of a SLURM cluster"
done
config=$(ask scontrol show config) || die "the SLURM controller does not answer: is slurmctld running?"
setting() { sed -n "s/^$1 *= *//p" <<<"$config" | head -n 1; }

name=$(setting ClusterName)
controller=$(setting 'SlurmctldHost\[0\]')
printf 'cluster     %s\ncontroller  %s\nversion     %s\n' \
  "${name:-(no name)}" "${controller:-(unknown)}" "$(setting SLURM_VERSION)"

section Partitions
ask sinfo -o '%10P %.5a %.12l %.6D %.14F %G' || die "sinfo does not answer"
echo "(NODES(A/I/O/T): allocated, idle, other, total)"

section Nodes
ask sinfo -N -o '%20N %12P %12T %5c %9m %22G %E' || die "sinfo does not answer"

section GPUs
gpus=$(ask scontrol --oneliner --details show node | awk '
  function count(text,    words, n, i, sum) {
    gsub(/\([^)]*\)/, "", text)
    n = split(text, words, ",")
    for (i = 1; i <= n; i++) if (words[i] ~ /^gpu/) { sub(/.*:/, "", words[i]); sum += words[i] }
    return sum + 0
  }
  {
    node = all = used = ""
    for (i = 1; i <= NF; i++) {
      if ($i ~ /^NodeName=/) node = substr($i, 10)
      if ($i ~ /^Gres=/) all = substr($i, 6)
      if ($i ~ /^GresUsed=/) used = substr($i, 10)
    }
    if (all ~ /gpu/) printf "%-20s %d of %d in use\n", node, count(used), count(all)
  }') || die "scontrol does not answer"
echo "${gpus:-none}"

section Queue
ask squeue -o '%.10i %12P %22j %12u %.3t %.12M %.6D %R' || die "squeue does not answer"

section 'Recent jobs'
if [[ $(setting AccountingStorageType) == accounting_storage/slurmdbd ]]; then
  ask sacct --allusers -X --starttime now-1days \
    --format 'JobID,JobName%22,User%12,Partition,State%14,Elapsed,NNodes,ExitCode' |
    { IFS= read -r head && IFS= read -r line && printf '%s\n%s\n' "$head" "$line"; tail -n 15; } ||
    echo "sacct does not answer: is slurmdbd running?"
else
  # Without accounting the controller itself still knows jobs that ended minutes ago (MinJobAge).
  ask squeue --states=BF,CA,CD,DL,F,NF,OOM,PR,TO -o '%.10i %12P %22j %12u %14T %.12M %.6D %R' |
    tail -n 16 || true
fi
