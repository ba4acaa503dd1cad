"""Training arguments on models with layers of Transformer Engine: what is let through changes nothing.

tests/weights/test_arguments_megatron.py does the same with Megatron-core's own layers.
"""

from pathlib import Path

import pytest
from megatron_arguments import WITH_TRANSFORMER_ENGINE

from launch import launch

pytest.importorskip("megatron.core", reason="megatron-core is not installed: pip install '.[cpu]'")
HERE = Path(__file__).parent


def test_each_argument_otherwise(transformer_engine):
    lines = launch(1, HERE / "te_arguments_worker.py", server=HERE / "te_server.py")
    difference = {line["name"]: line["difference"] for line in lines if "difference" in line}
    assert {name: most for name, most in difference.items() if most > 1e-5} == {}
    assert "base" in difference  # `transformer_impl` itself
    assert difference.keys() >= WITH_TRANSFORMER_ENGINE
    assert len(difference) > 180, [line for line in lines if "error" in line]
