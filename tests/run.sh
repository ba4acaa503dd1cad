#!/usr/bin/env bash
# Set up an environment and run every check: lint, types, tests.
#   tests/run.sh [VENV]    VENV is made anew if it does not exist (default: .venv)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

bash tests/install.sh "$venv" dev
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/mypy"
exec "$venv/bin/pytest"
