#!/usr/bin/env bash
# Sourced by the other scripts: make_environment EXTRAS makes .venv here and installs dto into it.

fail() { echo "error: $*" >&2; exit 1; }

# The first Python that dto runs on: $PYTHON, or what the machine calls python3.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

make_environment() {
  local extras=$1 python stamp
  stamp=".venv/dto-$extras-$(sha256sum <pyproject.toml | cut -c 1-16)"
  [[ ! -e $stamp ]] || return 0
  if [[ ! -x .venv/bin/python ]]; then
    python=$(find_python) || fail "needs Python 3.10 or newer (set PYTHON to one)"
    "$python" -m venv .venv || {
      rm -rf .venv
      fail "$python cannot make a virtual environment (Debian/Ubuntu: apt-get install python3-venv)"
    }
  fi
  echo "installing dto and what it needs into .venv (torch is large; the first time takes minutes) ..."
  .venv/bin/python -m pip install -q --disable-pip-version-check --editable ".[$extras]" ||
    fail "pip could not install dto; its own words are above"
  : >"$stamp"
}
