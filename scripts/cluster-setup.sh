#!/usr/bin/env bash
# usage: cluster-setup.sh [OPTIONS]    the same as `dto cluster setup`; `--help` lists the options
# Makes dto a small environment of its own outside of the checkout (no torch in it), then hands over.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=scripts/environment.sh
source "$root/scripts/environment.sh"

packages=(
  "ansible-core>=2.17,<2.20" "boto3>=1.34" "click>=8.1" "editables>=0.5" "hatchling>=1.24"
  "jinja2>=3.1" "mitogen>=0.3.54" "paramiko>=3.4" "psutil>=5.9" "pydantic>=2.6" "PyYAML>=6.0" "rich>=13"
)

python=$(find_python) || fail "needs Python 3.10 or newer (set PYTHON to one)"
version=$("$python" -c 'import sys; print(sys.version, sys.executable)')
folder=${XDG_DATA_HOME:-${HOME:?is not set}/.local/share}/dto
key=$(cat "$root/pyproject.toml" "${BASH_SOURCE[0]}" - <<<"$root $version" | sha256sum | cut -c 1-16)
venv=$folder/setup-$key

# The stamp is written last: an environment without one is what a killed run left.
if [[ ! -e $venv/complete ]]; then
  mkdir -p "$folder"
  exec 9>"$folder/setup.lock"
  command -v flock >/dev/null && { flock -w 600 9 || fail "another cluster-setup.sh is busy here"; }
  if [[ ! -e $venv/complete ]]; then
    rm -rf "$venv"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$python cannot make a virtual environment (Debian/Ubuntu: apt-get install python3-venv)"
    echo "preparing $venv (once) ..." >&2
    "$python" -m venv "$venv" || fail "$python could not make $venv; its own words are above"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check "${packages[@]}" >&2 ||
      fail "pip could not install what dto needs; its own words are above"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps \
      --no-build-isolation --editable "$root" >&2 || fail "pip could not install dto itself"
    : >"$venv/complete"
  fi
  exec 9>&-
fi
exec "$venv/bin/dto" cluster setup "$@"
