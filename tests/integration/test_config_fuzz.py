"""Whatever `--check` passes runs two steps; whatever it refuses is refused in the same words.

Configurations are drawn from all fields, within their bounds and beyond. MEGAPRUNE_FUZZ=N runs
as many of them in each world, in place of a few; MEGAPRUNE_FUZZ_SEED=N draws others.
"""

import importlib.util
import os

import pytest
from fuzz_worker import base

from launch import launch

RUNS = int(os.environ.get("MEGAPRUNE_FUZZ", "2"))
SEED = int(os.environ.get("MEGAPRUNE_FUZZ_SEED", "7"))

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(300 + 60 * RUNS),
]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_checked_is_what_happens(tmp_path, capsys, ranks):
    seconds = 240 + 60 * RUNS
    lines = launch(
        ranks, "fuzz_worker.py", tmp_path / "runs", SEED + ranks, RUNS, 60 * RUNS, seconds=seconds
    )
    passed = [line for line in lines if not line["refused"]]
    refused = [line for line in lines if line["refused"]]
    different = [line for line in lines if line.get("started", line["refused"]) != line["refused"]]
    different += [line for line in refused if line.get("folder")]
    with capsys.disabled():
        print(
            f"\n{ranks} ranks: {len(lines)} configurations drawn, {len(passed)} passed, "
            f"{len(refused)} refused, {len(different)} differing"
        )
    assert len(passed) == RUNS
    assert len(base(tmp_path, 0)) == 10
    assert different == []
