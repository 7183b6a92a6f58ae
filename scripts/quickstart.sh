#!/usr/bin/env bash
# From a fresh clone to a trained model: make .venv, install dto, train on real data with two workers.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -eq 0 ]] || { echo "usage: ${0##*/}" >&2; exit 2; }

# shellcheck source=scripts/environment.sh
source scripts/environment.sh
make_environment examples
PATH=$PWD/.venv/bin:$PATH
echo '$ dto run -n 2 examples/simple_net.py'
dto run -n 2 examples/simple_net.py
read -r run folder < <(dto status latest --json |
  python -c 'import json, sys; status = json.load(sys.stdin); print(status["id"], status["dir"])')
accuracy=$(dto logs "$run" --rank 0 | grep --only-matching 'accuracy.*')
cat <<EOT

$accuracy
run directory    $folder
its log          dto logs $run
to go on         dto resume $run    (after a stop, a crash or a kill)
before these     source .venv/bin/activate
EOT
