"""Transformer Engine that is installed and cannot be loaded: the model is built without it."""

import os
import subprocess
import sys

import pytest

BROKEN = {
    "no library": "raise FileNotFoundError('Could not find shared object file: transformer_engine')",
    "wrong torch": "raise ImportError('transformer_engine_torch.so: undefined symbol: _ZN3c105Error')",
    "no loader": "import ctypes; ctypes.CDLL('libtransformer_engine.so')",
    "assertion": "assert False, 'Found empty `transformer-engine` meta package installed'",
    "half": "from transformer_engine.common import nothing",
}


WHOLE = "from transformer_engine import common, pytorch\n"


def run(tmp_path, code, program, init=WHOLE, **variables):
    """Run a program where Transformer Engine is a package with such code for torch."""
    package = tmp_path / "transformer_engine"
    (package / "pytorch").mkdir(parents=True)
    (package / "__init__.py").write_text(init)
    (package / "common.py").write_text("")
    (package / "pytorch" / "__init__.py").write_text(code + "\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), **variables}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


LOAD = """
from megaprune.actor import transformer_engine
print(transformer_engine.load(), transformer_engine.load())
try:
    import transformer_engine.pytorch
except ImportError:
    print("absent")
"""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_as_none_and_told_once(tmp_path, name):
    output, errors = run(tmp_path, BROKEN[name], LOAD)
    assert output == "False False\nabsent"
    assert errors.count("Transformer Engine is installed and cannot be loaded") == 1
    assert errors.count("\n") == 1
    assert "`megaprune doctor` says how to mend it" in errors


def test_other_ranks_are_silent(tmp_path):
    output, errors = run(tmp_path, BROKEN["no library"], LOAD, RANK="1")
    assert (output, errors) == ("False False\nabsent", "")


def test_a_half_that_its_package_passes_over(tmp_path):
    """As the real one does: it can be imported by itself, and was before."""
    package = "try:\n    from transformer_engine import pytorch\nexcept ImportError:\n    pass\n"
    program = "import transformer_engine\n" + LOAD
    output, errors = run(tmp_path, BROKEN["wrong torch"], program, package)
    assert output == "False False\nabsent"
    assert errors.count("Transformer Engine is installed and cannot be loaded") == 1


def test_a_whole_one_is_left_alone(tmp_path):
    assert run(tmp_path, "", LOAD) == ("True True", "")


def test_megatron_can_be_imported_beside_a_broken_one(tmp_path):
    """By whichever module comes first; Megatron-core alone ends with the error."""
    program = (
        "import megaprune.trainer.checkpoint, megaprune.actor.build as build; "
        "from megatron.core.extensions import transformer_engine as extension; "
        "print(build.has_transformer_engine(), extension.HAVE_TE)"
    )
    output, errors = run(tmp_path, BROKEN["no library"], program)
    assert output.endswith("False False")
    assert "Transformer Engine is installed and cannot be loaded (FileNotFoundError" in errors
