"""Transformer Engine's own package without a compiled half that works: it is as if it were not there.

tests/actor/test_transformer_engine.py has other errors, raised by a package of its own.
"""

import os
import shutil
import subprocess
import sys

import pytest

ONLY_PYTHON = {"NVTE_PROJECT_BUILDING": "1"}  # the package then looks for no library of CUDA
HALF = "transformer_engine_torch.so"
UNDEFINED = "extern int of_another_torch(void); int (*called)(void) = of_another_torch;"

LOAD = """
from megaprune.actor import transformer_engine
print(transformer_engine.load(), transformer_engine.load())
"""
BUILD = """
import torch
from megaprune.distributed.process import importing
with importing():
    import megaprune.actor.build as build
from megatron.core.extensions import transformer_engine as extension
print(build.has_transformer_engine(), extension.HAVE_TE)
"""


@pytest.fixture
def run(transformer_engine, tmp_path):
    """Run a program beside the package; its output, and its errors."""
    for path in transformer_engine.iterdir():
        (tmp_path / path.name).symlink_to(path)

    def run(program, **variables):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env={**os.environ, "PYTHONPATH": str(tmp_path), **variables},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    run.folder = tmp_path
    return run


def check(output, errors, reason):
    assert output == "False False"
    # A build of torch for CUDA logs where it looks for a compiler.
    (line,) = [line for line in errors.splitlines() if "torch/utils/cpp_extension.py" not in line]
    assert f"Transformer Engine is installed and cannot be loaded ({reason}" in line


def test_without_its_core(run):
    """As `pip install transformer-engine` leaves it."""
    output, errors = run(LOAD)
    check(output, errors, "RuntimeError: Found empty `transformer-engine` meta package")


def test_without_the_half_for_torch_though_it_was_imported_before(run):
    output, errors = run("import transformer_engine\n" + LOAD, **ONLY_PYTHON)
    check(output, errors, "FileNotFoundError: Could not find shared object file")


def test_a_half_that_was_built_for_another_torch(run):
    """Megatron-core and the actor can be imported all the same."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build such a half with")
    command = [compiler, "-shared", "-fPIC", "-xc", "-", "-o", str(run.folder / HALF)]
    subprocess.run(command, input=UNDEFINED, text=True, check=True)
    output, errors = run(BUILD, **ONLY_PYTHON)
    check(output, errors, "ImportError: ")
    assert "undefined symbol: of_another_torch" in errors
