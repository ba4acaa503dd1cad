#!/usr/bin/env bash
# Set up an environment as it is locked in requirements/, and check it.
#   tests/install.sh [VENV [gpu|cpu|launch]]
# VENV is made anew if it does not exist (default: .venv), by the Python that PYTHON names. With a GPU
# it gets vLLM's CUDA build and Transformer Engine, without one vLLM's CPU build; launch is NeMo-Run.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
gpus=$(nvidia-smi -L 2>/dev/null || true)
kind=${2:-$([ -n "$gpus" ] && echo gpu || echo cpu)}

if ! [ -x "$venv/bin/python" ]; then
    python=${PYTHON:-$(command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3.11)}
    "$python" -m venv "$venv"
fi
version=$("$venv/bin/python" -c 'import sys; print("py{}.{}".format(*sys.version_info))')
if ! [ -f "requirements/$kind-$version.txt" ]; then
    echo "install.sh: requirements/$kind-$version.txt is not there: choose a lock that is" >&2
    exit 2
fi
install_lock() { # LOCK [OPTION...]
    "$venv/bin/pip" install -q --no-deps --no-compile --require-hashes \
        -r "requirements/$1-$version.txt" "${@:2}"
}

install_lock "$kind"
case $kind in
# Any build of torch that this machine's index has; the locked packages suit the rest of the extra.
cpu) "$venv/bin/pip" install -q --no-compile --no-warn-conflicts -e ".[cpu]" ;;
*) "$venv/bin/pip" install -q --no-deps -e . ;;
esac
if [ "$kind" = gpu ]; then
    # It is compiled for the torch that is there now, with the headers of that torch's CUDA. Beside
    # one that cannot be loaded, Megatron-core cannot be imported.
    log=$venv/transformer-engine.log
    if ! { NVTE_BUILD_USE_NVIDIA_WHEELS=1 install_lock transformer-engine --no-build-isolation &&
        { [ -z "$gpus" ] || "$venv/bin/python" -c 'import transformer_engine.pytorch'; }; } >"$log" 2>&1; then
        "$venv/bin/pip" uninstall -q -y transformer-engine transformer-engine-{cu13,torch} >>"$log" 2>&1
        echo "install.sh: Transformer Engine cannot be built or loaded (see $log), and is left out:" \
            "training is slower. Install g++, and run tests/install.sh $venv again" >&2
    fi
fi
# Bytecode on all cores at once, as pip does not; a few packages have files for other Pythons.
"$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python*/site-packages >/dev/null 2>&1 || true

if [ "$kind" = launch ]; then
    exit
elif [ "$kind" = gpu ] && [ -z "$gpus" ]; then
    echo "install.sh: there is no GPU here to check it with: run $venv/bin/megaprune doctor where there is"
else
    "$venv/bin/megaprune" doctor --packages
fi
