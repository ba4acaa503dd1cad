#!/usr/bin/env bash
# Run every check with the newest engines that are tested (docs/engines.md).
#   tests/versions.sh [VENV]    VENV is made anew if it does not exist (default: .venv-newest)
# Megatron-core 0.17 and later need Python 3.12; PYTHON names another than python3.12.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(realpath -m "${1:-.venv-newest}")
export PYTHON=${PYTHON:-python3.12}

bash tests/install.sh "$venv"
"$venv/bin/python" - <<'CHECK'
from megaprune.engine_versions import ENGINES

for engine in ENGINES:
    print(f"{engine.name} {engine.installed()} (newest tested: {engine.tested[-1]})")
    assert engine.installed() == engine.tested[-1], "the environment has another version"
CHECK
exec bash tests/run.sh "$venv"
