"""Commands of megaprune as a user starts them, and kills them: processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from launch import environment


def megaprune(*arguments):
    return [sys.executable, "-m", "megaprune.cli", *map(str, arguments)]


def ran(*arguments, seconds=300):
    """Run to the end; status and output."""
    done = subprocess.run(
        megaprune(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=seconds,
    )  # fmt: skip
    return done.returncode, done.stdout


def kill_when(seen, *arguments, seconds=300):
    """Start, and SIGKILL all of its processes when `seen()` is true; what it had said."""
    process = subprocess.Popen(
        megaprune(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + seconds
    try:
        while not seen():
            assert process.poll() is None, process.communicate()[0][-4000:]
            assert time.monotonic() < end, "what was to be seen did not come"
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    return said
