#!/usr/bin/env bash
# usage: install-terraform.sh [FOLDER]    put Terraform, checked by its published hash, into FOLDER
# (default: /usr/local/bin). TERRAFORM_RELEASES names a mirror of releases.hashicorp.com/terraform.
set -euo pipefail

version=1.11.4
folder=${1:-/usr/local/bin}
releases=${TERRAFORM_RELEASES:-https://releases.hashicorp.com/terraform}
fail() { echo "error: $*" >&2; exit 1; }
[[ $# -le 1 && ${1:-} != -* ]] || { echo "usage: ${0##*/} [FOLDER]" >&2; exit 2; }
case $(uname -s)-$(uname -m) in
  Linux-x86_64) kind=linux_amd64 ;;
  Linux-aarch64) kind=linux_arm64 ;;
  *) fail "no Terraform for $(uname -s) on $(uname -m) is known here: install it by hand" ;;
esac
[[ -d $folder && -w $folder ]] || fail "$folder is no folder that you may write to: name another"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fetch() {
  python3 - "$releases/$version/$1" "$scratch/$1" <<'PY' || fail "$releases/$version/$1 cannot be had"
import shutil, sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=60) as page, open(sys.argv[2], "wb") as file:
        shutil.copyfileobj(page, file)
except OSError:
    sys.exit(1)
PY
}
fetch "terraform_${version}_SHA256SUMS"
fetch "terraform_${version}_$kind.zip"
(cd "$scratch" && sha256sum --quiet --check --ignore-missing "terraform_${version}_SHA256SUMS") ||
  fail "terraform_${version}_$kind.zip is not what its published hash says: nothing was installed"
python3 -m zipfile -e "$scratch/terraform_${version}_$kind.zip" "$scratch"
install -m 0755 "$scratch/terraform" "$folder/terraform"
echo "Terraform $version is in $folder"
