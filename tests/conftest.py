import gc
import os
import signal
import sys
from pathlib import Path

# Tests share tests/reference.py; models for them are made here, never fetched.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "integration")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Plans are many small tuples without cycles: looking for cycles took a third of their tests' time.
gc.set_threshold(200_000, 20, 20)

# A shell that starts tests in the background makes them ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
