import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Tests share tests/reference.py; models for them are made here, never fetched.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "integration"), str(HERE / "contract")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from recorded import (  # noqa: E402, F401 (fixtures)
    alone,
    configuration,
    make_actor,
    recorded,
    recorded_batch,
)

# Plans are many small tuples without cycles: looking for cycles took a third of their tests' time.
gc.set_threshold(200_000, 20, 20)

# A shell that starts tests in the background makes them ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def disk(tmp_path):
    """A file system of its own; call it with options to set its size or make it read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        mount = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small disk cannot be mounted: there is no mount")
    if mount.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mount.stderr.strip()}")

    def remount(*options):
        words = ["mount", "-o", ",".join(("remount", *options)), str(place)]
        subprocess.run(words, check=True, capture_output=True)
        return place

    yield remount
    subprocess.run(["umount", str(place)], check=True)


SLOW = {
    "algorithms/test_losses.py::test_any_division_gives_the_same_loss_and_gradient": "many cases",
    "analyze/test_endpoint.py": "servers that do not answer are waited for",
    "analyze/test_hostile_servers.py": "servers that do not answer are waited for",
    "analyze/test_vllm_judge.py": "vLLM's own server",
    "contract/test_broken_transformer_engine.py": "processes of their own",
    "contract/test_te_arguments.py": "a model of Megatron-core for each argument",
    "contract/test_te_layers.py": "models on several processes",
    "data/test_rendering.py": "templates that loop are waited for",
    "doctor/test_doctor.py": "imports everything, in processes of its own",
    "grading/test_equality.py": "answers that take all of their time",
    "grading/test_grade_cli.py": "processes of their own",
    "grading/test_pool.py": "graders that hang are waited for",
    "grading/test_pool_deadlines.py": "workers that do not start are waited for",
    "launch/test_preflight.py": "processes that meet",
    "planner/test_measured.py": "plans of large worlds",
    "planner/test_plan_cli.py": "processes of their own",
    "planner/test_timing_estimate.py": "plans of large worlds",
    "report/test_report_browser.py": "a browser",
    "report/test_report_evaluations.py": "draws figures",
    "report/test_report_inputs.py": "draws figures",
    "report/test_report_page.py": "draws figures",
    "report/test_report_prune.py": "draws figures",
    "report/test_report_runs.py": "draws figures",
    "config/test_foreign_yaml.py": "hundreds of inputs",
    "test_engine_versions.py": "imports both engines",
    "test_hub.py": "processes of their own",
    "test_files.py::test_killed_at_every_change": "a process for each change",
    "trainer/test_checkpoint_damage.py": "checkpoints, each damaged",
    "test_lease.py": "processes that wait for each other",
    "trainer/test_trackers.py": "processes of their own",
    "test_documented_commands.py": "commands as they stand in README and docs/",
    "test_validate.py::test_checking_an_evaluation_ends_if_the_template_does_not": "is waited for",
    "test_validate.py::test_checking_an_evaluation_runs_nothing_of_the_model": "many checks",
    "weights/test_arguments_megatron.py": "a model of Megatron-core for each argument",
    "weights/test_bad_input.py": "hundreds of conversions",
    "weights/test_convert.py": "hundreds of conversions",
    "weights/test_copy_plan.py": "plans of large worlds",
    "weights/test_fuzz.py": "hundreds of folders",
    "weights/test_layouts.py::test_megatron_ranks_hold_what_the_formulas_say": "many layouts",
    "weights/test_strangers.py": "hundreds of conversions",
    "weights/test_strangers_numbers.py": "hundreds of conversions",
    "weights/test_verify.py": "hundreds of conversions",
}
"""What `pytest -m fast` leaves out, besides tests/integration: files, or tests of them, and why."""


LONG = (
    "integration/test_slurm.py", "integration/test_ends.py", "integration/test_actor.py",
    "integration/test_train.py", "integration/test_nemo_run.py", "integration/test_bad_runs.py",
    "integration/test_evaluate.py", "integration/test_kill_points.py",
    "integration/test_batches.py", "integration/test_vllm_layout.py",
)  # fmt: skip
"""Files that take minutes, longest first."""


def pytest_collection_modifyitems(items):
    """Whatever is not slow is fast: it starts no engine, and all of it takes a minute."""
    for item in items:
        name = item.path.relative_to(HERE).as_posix()
        slow = name.startswith("integration/")
        slow |= not SLOW.keys().isdisjoint({name, f"{name}::{getattr(item, 'originalname', '')}"})
        item.add_marker(pytest.mark.slow if slow else pytest.mark.fast)
    # Long files begin first, so that in the end no worker is busy with one alone (tests/run.sh).
    items.sort(key=_place)


def _place(item):
    name = item.path.relative_to(HERE).as_posix()
    rest = len(LONG) + (not name.startswith("integration/"))
    return LONG.index(name) if name in LONG else rest
