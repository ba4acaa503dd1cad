"""Start processes for tests: forks of one that has imported everything, or torchrun itself."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq

from megaprune.recipes.tiny import FOLDER

HERE = Path(__file__).parent
SERVER = HERE / "fork_server.py"
IMPORT_SECONDS = 300


@cache
def _some_of(name: str, count: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="megaprune-tests-"))
    atexit.register(_remove, folder, os.getpid())
    path = folder / f"{name}.parquet"
    pq.write_table(pq.read_table(FOLDER / "data" / f"{name}.parquet").slice(0, count), path)
    return path


def few_problems() -> Path:
    """Some of the overthinker's validation problems: with all of them, measuring takes seconds."""
    return _some_of("validation", 64)


def few_training_problems() -> Path:
    """Some of its training problems: reading all of them is a second of each start."""
    return _some_of("train", 256)


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",  # several ranks on few cores: more threads only spin
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }


def command(ranks: int, worker: str, *arguments: object) -> list[str]:
    """A worker under torchrun, as a user starts what is his own."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start += ["--nproc-per-node", str(ranks), str(HERE / worker)]
    return [*start, *map(str, arguments)]


def _remove(folder: Path, owner: int) -> None:
    # Forks of the owner's process, such as those of tests/launch/test_forks.py, end as it does.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


class _Server:
    """fork_server.py, or one that prepares its processes otherwise; lives as long as this process."""

    def __init__(self, program: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="megaprune-tests-"))
        atexit.register(_remove, self.folder, os.getpid())
        self.lock, self.jobs = threading.Lock(), 0
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(self.folder / "socket")],
            env={**environment(), "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            stderr=(self.folder / "server.err").open("w"),
        )  # fmt: skip
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], IMPORT_SECONDS)
        ready = bool(readable) and self._process.stdout.readline() == "ready\n"
        assert ready, (self.folder / "server.err").read_text()[-4000:]

    def next_output(self) -> Path:
        with self.lock:
            self.jobs += 1
            return self.folder / f"{self.jobs}.txt"


_starting = threading.Lock()


@cache
def _start_server(program: Path) -> _Server:
    return _Server(program)


def _server(program: Path) -> _Server:
    with _starting:  # tests' threads may ask at once
        return _start_server(program)


class Job:
    """A program that runs in processes of its own.

    Args:
        program: a worker of this folder and its arguments, or "megaprune" and its arguments.
        ranks: as many processes as torchrun would have made; 0 for one that nobody launched.
        folder: to run in.
        seconds: after which it is killed.
        server: forks its processes.
        variables: of its environment, besides this process's.
    """

    def __init__(
        self, *program: object, ranks: int = 0, folder: Path | None = None, seconds: float = 300,
        server: Path = SERVER, **variables: str,
    ):  # fmt: skip
        running = _server(server)
        self._output = running.next_output()
        self._errors = self._output.with_suffix(".err")
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(running.folder / "socket"))
        self._answers = connection.makefile("rb", buffering=0)  # so that select sees what is left
        request = {
            "program": list(map(str, program)), "ranks": ranks, "seconds": seconds,
            "folder": str(folder or Path.cwd()), "variables": variables,
            # Lines of JSON are for whoever launched it: nothing else comes in between.
            "output": str(self._output), "errors": str(self._errors if ranks else self._output),
        }  # fmt: skip
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.close()
        self._group = int(self._answers.readline())
        self.status: int | None = None

    def wait(self) -> int:
        """Its exit status, when it has ended; as subprocess has it."""
        if self.status is None:
            answer = self._answers.readline()
            self.status = int(answer) if answer else -signal.SIGKILL
            self._answers.close()
        return self.status

    def running(self) -> bool:
        if self.status is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self.status is None

    def kill(self) -> None:
        """SIGKILL for all of its processes at once."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                os.killpg(self._group, signal.SIGKILL)
        self.wait()

    @property
    def output(self) -> str:
        """What it wrote so far; what ranks wrote, with their errors behind it."""
        files = [path for path in (self._output, self._errors) if path.exists()]
        return "".join(path.read_text(errors="replace") for path in files)

    def json_lines(self) -> list[dict]:
        lines = self._output.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def launch(
    ranks: int, worker: str, *arguments: object, seconds: float = 300, server: Path = SERVER,
    **variables: str,
) -> list[dict]:  # fmt: skip
    """Run a worker to its end, with more environment variables; its JSON lines."""
    job = Job(worker, *arguments, ranks=ranks, seconds=seconds, server=server, **variables)
    assert job.wait() == 0, job.output[-8000:]
    return job.json_lines()


# Commands of megaprune.


def ran(*arguments: object, seconds: float = 300, ranks: int = 0) -> tuple[int, str]:
    """`megaprune` with these arguments, to its end; status and output."""
    job = Job("megaprune", *arguments, ranks=ranks, seconds=seconds)
    return job.wait(), job.output


def ran_well(*arguments: object, seconds: float = 300, ranks: int = 0) -> str:
    status, text = ran(*arguments, seconds=seconds, ranks=ranks)
    assert status == 0, text[-4000:]
    assert "Traceback" not in text
    return text


def kill_when(seen, *arguments: object, seconds: float = 300) -> str:
    """Start it, and SIGKILL all of its processes when `seen()` is true; what it had said."""
    job, end = Job("megaprune", *arguments, seconds=seconds), time.monotonic() + seconds
    try:
        while not seen():
            assert job.running(), job.output[-4000:]
            assert time.monotonic() < end, "what was to be seen did not come"
            time.sleep(0.02)
    finally:
        job.kill()
    assert job.status == -signal.SIGKILL
    return job.output
