#!/usr/bin/env bash
# Several bare Debian hosts on this machine, to set up clusters on and to break them:
# up, ls, ssh HOST, kill HOST, start HOST, down. Needs root; what it makes, `down` removes.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
python=.venv/bin/python
[[ -x $python ]] || python=python3
exec "$python" -m tests.lab "$@"
