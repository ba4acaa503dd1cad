#!/usr/bin/env bash
# Run the tests that touch an engine with the newest engines that are tested (docs/engines.md).
#   tests/versions.sh [VENV]    VENV is made anew if it does not exist (default: .venv-newest)
# Megatron-core 0.17 and later need Python 3.12; PYTHON names another than python3.12.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(realpath -m "${1:-.venv-newest}")
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

PYTHON=${PYTHON:-python3.12} bash tests/install.sh "$venv"
"$venv/bin/python" - <<'CHECK'
from megaprune.engine_versions import ENGINES

for engine in ENGINES:
    print(f"{engine.name} {engine.installed()} (newest tested: {engine.tested[-1]})")
    assert engine.installed() == engine.tested[-1], "the environment has another version"
CHECK
failed=()
# All folders whose tests build an engine; one process after another, since tests start several.
for tests in test_engine_versions.py actor contract distributed doctor generation integration trainer \
    weights/test_{arguments_megatron,layouts}.py; do
    "$venv/bin/pytest" -q -W ignore "tests/$tests" || failed+=("$tests")
done
[ ${#failed[@]} = 0 ] || { echo "versions.sh: failed: ${failed[*]}" >&2; exit 1; }
echo "versions.sh: all of them pass"
