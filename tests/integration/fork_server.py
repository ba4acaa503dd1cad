"""Processes that need not import anything: a server forks them, and imports are paid for once.

    fork_server.py SOCKET

A connection asks for one job with a line of JSON, {"program": [...], "ranks": N, "output": FILE,
"errors": FILE, "folder": to run in, "variables": {...}, "seconds": N}. A program is a script of this folder and its
arguments, or "megaprune" and its arguments. The answers are two lines: the number of the job's
process group, and its exit status. Ranks are what torchrun would have started: each has its own
process, they meet at a port, and if one fails the others are ended.

Importing is all that happens before a fork: no thread of Python runs, and nothing was computed.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import megaprune

HERE = Path(__file__).parent
ENDS_SECONDS = 10.0


NOT_IMPORTED = ("__main__", "grading.worker", "launch.nemo", "nemo_study")
OTHERS = (
    "pyarrow.parquet", "pyarrow.dataset", "transformers.models.qwen2.tokenization_qwen2",
    "torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_agg",
)  # fmt: skip
OF_VLLM = (
    "vllm.entrypoints.llm", "vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.core.sched.scheduler", "vllm.v1.executor.uniproc_executor",
    "vllm.v1.engine.llm_engine", "vllm.v1.attention.backends.cpu_attn",
    "vllm.model_executor.model_loader", "vllm.model_executor.models.qwen2",
    "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors",
)  # fmt: skip
"""What an engine imports only as it is built."""


def import_everything() -> None:
    """What a run needs, as far as it can be imported without starting anything."""
    from megaprune.distributed.process import importing, prepare_process

    prepare_process()
    installed = importlib.util.find_spec("vllm") is not None
    with importing():
        if installed:
            from megaprune.generation.process import import_engine

            import_engine()
        for module in pkgutil.walk_packages(megaprune.__path__, "megaprune."):
            # Those begin what they are for, or want NeMo-Run.
            if not module.name.endswith(NOT_IMPORTED):
                importlib.import_module(module.name)
        for name in (*OTHERS, *(OF_VLLM if installed else ())):
            importlib.import_module(name)


def begin(program: list[str]) -> int:
    """Run a program in this process; its exit status."""
    name, *arguments = program
    try:
        if name == "megaprune":
            from megaprune.cli.main import main

            return int(main(arguments))
        sys.argv = [str(HERE / name), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 (as the interpreter does)
        traceback.print_exc()
        return 1
    return 0


def rank(program: list[str], variables: dict[str, str]) -> None:
    """In a rank's own process; does not return."""
    os.environ.update(variables)
    status = begin(program)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def job(
    program: list[str],
    ranks: int,
    output: str,
    errors: str,
    folder: str,
    variables: dict[str, str],
    seconds: float,
) -> int:
    """Start the ranks, and see them end; the status of the first that failed, 0 if none did."""
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for stream, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, append, 0o644), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    shared = {}
    if ranks:  # what torchrun says to each
        shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared["TORCHELASTIC_RUN_ID"] = str(os.getpid())
    running = {}
    for number in range(max(ranks, 1)):
        own = {"RANK": str(number), "LOCAL_RANK": str(number)} if ranks else {}
        child = os.fork()
        if not child:
            rank(program, {**variables, **shared, **own})
        running[child] = number
    status, end = 0, time.monotonic() + seconds
    while running:
        process, how = os.waitpid(-1, os.WNOHANG)
        if not process:
            if time.monotonic() > end:
                print(f"not done in {seconds} s" if not status else "ranks do not end", flush=True)
                status = status or 124
                for other in running:
                    os.kill(other, signal.SIGKILL)
                end += 3600
            time.sleep(0.01)
            continue
        number = running.pop(process)
        code = os.waitstatus_to_exitcode(how)
        if code and not status:
            status = code
            if code < 0:
                print(f"rank {number}: {signal.Signals(-code).name}", flush=True)
            for other in running:
                os.kill(other, signal.SIGTERM)
            end = time.monotonic() + ENDS_SECONDS
    return status


def serve(asked: socket.socket) -> None:
    """In the process that watches over one job; does not return."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with asked, asked.makefile("rw") as lines:
        request = json.loads(lines.readline())
        print(os.getpid(), file=lines, flush=True)
        print(job(**request), file=lines, flush=True)
    os._exit(0)


def main(prepare: Callable[[], None] = import_everything) -> None:
    gc.disable()  # it would look through each new module for cycles
    prepare()
    gc.collect()
    gc.freeze()  # what was imported stays, and is shared
    gc.enable()
    # A job gives back what it froze when an engine ends: here that is all that was imported.
    gc.unfreeze = lambda: None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that watch
    with socket.socket(socket.AF_UNIX) as place:
        place.bind(sys.argv[1])
        place.listen()
        print("ready", flush=True)
        parent = os.getppid()
        place.settimeout(1.0)
        while os.getppid() == parent:
            try:
                asked, _ = place.accept()
            except TimeoutError:
                continue
            asked.settimeout(None)
            if not os.fork():
                place.close()
                serve(asked)
            asked.close()


if __name__ == "__main__":
    main()
