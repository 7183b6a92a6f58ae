#!/usr/bin/env bash
# Make a cluster from nothing: terraform apply in a folder, then install it. Run it again to finish
# what was interrupted; what is done already stays as it is.
set -euo pipefail

usage() {
  echo "usage: ${0##*/} [FOLDER] [-- TERRAFORM ARGUMENTS...]" >&2
  echo "  FOLDER holds the *.tf files; without one, ${examples}/smallest" >&2
  exit 2
}

examples=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$examples/../.." && pwd)
folder=$examples/smallest
if [[ $# -gt 0 && $1 != -- ]]; then
  [[ $1 != -* ]] || usage
  folder=$1
  shift
fi
if [[ $# -gt 0 ]]; then
  [[ $1 == -- ]] || usage
  shift
fi

[[ -d $folder ]] || { echo "error: $folder is not a folder" >&2; exit 2; }
compgen -G "$folder/*.tf" >/dev/null || { echo "error: no *.tf files in $folder" >&2; exit 2; }
command -v terraform >/dev/null || { echo "error: terraform is not on PATH (1.11 or newer)" >&2; exit 1; }

terraform -chdir="$folder" init -input=false
terraform -chdir="$folder" apply "$@"
exec "$root/scripts/cluster-setup.sh" --from-terraform "$folder"
