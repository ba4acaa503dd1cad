#!/usr/bin/env bash
# Set up an environment and run every check: lint, types, tests.
#   tests/run.sh [VENV]    VENV is made anew if it does not exist (default: .venv)
set -euo pipefail
cd "$(dirname "$0")/.."
# Absolute: tests run what is in it from other folders.
venv=$(realpath -m "${1:-.venv}")
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

bash tests/install.sh "$venv"
# NeMo-Run, in an environment of its own: it cannot be beside vLLM. Types are checked meanwhile.
bash tests/install.sh "$venv-launch" launch &
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/mypy"
# Hundreds of processes import the package, perhaps where bytecode is not written.
"$venv/bin/python" -m compileall -q megaprune recipes tests
if wait $!; then
    export MEGAPRUNE_LAUNCH=$venv-launch/bin/python
else
    echo "run.sh: NeMo-Run cannot be installed here: its tests are skipped" >&2
fi
# Two at a time: much of the time is that of processes which start. In the order of conftest.py.
exec "$venv/bin/pytest" -n 2 --dist loadfile --no-loadscope-reorder
