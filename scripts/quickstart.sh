#!/usr/bin/env bash
# From a fresh clone to a trained model: make .venv, install dto, train on real data with two workers.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -eq 0 ]] || { echo "usage: ${0##*/}" >&2; exit 2; }

# shellcheck source=scripts/environment.sh
source scripts/environment.sh
make_environment examples
PATH=$PWD/.venv/bin:$PATH
echo "+ dto run -n 2 examples/simple_net.py"
dto run -n 2 examples/simple_net.py
echo "Use it yourself: source .venv/bin/activate && dto run -n 2 your_script.py"
