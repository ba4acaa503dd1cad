import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Tests share tests/reference.py; models for them are made here, never fetched.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "integration")]
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
