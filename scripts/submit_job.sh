#!/usr/bin/env bash
# usage: submit_job.sh [OPTIONS] SCRIPT [ARGS...]    the same as `dto submit`; see its --help
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
if [ -x "$here/.venv/bin/dto" ]; then
  exec "$here/.venv/bin/dto" submit "$@"
fi
command -v dto >/dev/null || {
  echo "submit_job.sh: dto is not installed: run scripts/quickstart.sh, or pip install dto" >&2
  exit 1
}
exec dto submit "$@"
