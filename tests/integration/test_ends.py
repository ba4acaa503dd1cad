"""Processes end together, say what goes on, and listen to nobody outside: real runs, killed."""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from jobs import megaprune

from launch import environment, few_training_problems

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(600),
]

FIELDS = [
    "recipe=tiny_overthinker", "data.train_batch_size=8", "rollout.n=4", "rollout.max_response_length=24",
    "max_failed_steps=null",  # all are cut off
    "validation.every=0", "checkpoint.every=100", "steps=400", "grading.environment=[MARK]",
    f"data.train={few_training_problems()}",
]  # fmt: skip
TWO = ["processes=2", "actor.tp=2"]
START_SECONDS = 200
GONE_SECONDS = 30


class Running:
    """A command, and all processes that it starts: they have a mark in their environment."""

    def __init__(self, *command, **variables):
        self.mark = uuid.uuid4().hex
        self.text = ""
        self.process = subprocess.Popen(
            command, env={**environment(), "MARK": self.mark, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.set_blocking(self.process.stdout.fileno(), False)

    def pids(self):
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
        return found

    def ranks(self, count=2):
        """Their ids, by rank, once there are so many."""
        end = time.monotonic() + GONE_SECONDS
        while len(found := self._ranks()) < count:
            assert time.monotonic() < end, (found, self.pids())
            time.sleep(0.1)
        return found

    def _ranks(self):
        found = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                name = (Path("/proc") / str(pid) / "comm").read_text().strip()
                if match := re.fullmatch(r"megaprune-(\d+)", name):
                    found[int(match[1])] = pid
        return found

    def read(self):
        with contextlib.suppress(BlockingIOError):  # nothing is there
            while more := os.read(self.process.stdout.fileno(), 1 << 16):
                self.text += more.decode(errors="replace")

    def until(self, words, seconds=START_SECONDS):
        end = time.monotonic() + seconds
        while words not in self.text:
            self.read()
            assert self.process.poll() is None or words in self.text, self.text[-4000:]
            assert time.monotonic() < end, self.text[-4000:]
            time.sleep(0.05)

    def gone(self, seconds=GONE_SECONDS):
        """Wait until all have ended; how long it took."""
        begin = time.monotonic()
        while left := self.pids():
            self.read()
            now = time.monotonic() - begin
            assert now < seconds, (left, self.text[-4000:])
            time.sleep(0.05)
        self.read()
        return time.monotonic() - begin

    def end(self):
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def start():
    running = []

    def begin(*command, **variables):
        running.append(Running(*command, **variables))
        return running[-1]

    yield begin
    for each in running:
        each.end()


def steps_said(text):
    return [int(number) for number in re.findall(r"^(?:\[\w+\]:)?step (\d+)/", text, re.M)]


def saved(out):
    return sorted(path.name for path in (out / "checkpoints").glob("iter_*"))


def goes_on(start, out, step, *fields):
    """The same command, for one more step."""
    job = start(*megaprune("train", *FIELDS, *fields, f"out={out}", f"steps={step + 1}"))
    assert job.process.wait(START_SECONDS) == 0
    job.read()
    assert f"goes on after step {step}" in job.text
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, step + 2)]


def stopped_and_saved(job, out):
    """All ended by themselves; the step that is saved is the last that was done."""
    seconds = job.gone()
    print(f"gone after {seconds:.1f} s")
    last = steps_said(job.text)[-1]
    assert f"stopped: {last} of 400 steps are done and saved" in job.text
    assert saved(out) == [f"iter_{last:07}"]
    return last


def test_the_launcher_is_killed(start, tmp_path):
    """By SIGKILL, alone: the ranks save after their step and end, and nothing is lost."""
    out = tmp_path / "run"
    command = megaprune("train", *FIELDS, *TWO, f"out={out}")
    job = start(*command)
    job.until("step 2/400")
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.wait()
    step = stopped_and_saved(job, out)
    assert f"has lost process {job.process.pid}, which launched it" in job.text
    assert f"the same command goes on: {shlex.join(['megaprune', *command[3:]])}" in job.text
    goes_on(start, out, step, *TWO)


def test_torchrun_is_killed(start, tmp_path):
    """A user's own; its output goes to whoever reads the pipe."""
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    fields = [*FIELDS, "actor.tp=2", f"out={out}"]
    job = start(*torchrun, "2", "-m", "megaprune.cli", "train", *fields)
    job.until("step 2/400")
    os.kill(job.process.pid, signal.SIGKILL)
    stopped_and_saved(job, out)


def test_whoever_started_torchrun_is_killed(start, tmp_path):
    """As slurm/megaprune-node is, which torchrun does not notice."""
    out = tmp_path / "run"
    fields = shlex.join([*FIELDS, "actor.tp=2", f"out={out}"])
    script = (
        "export MEGAPRUNE_LAUNCHERS=$$\n"
        f"{sys.executable} -m megaprune.launch.node --nodes here --name here --processes 2 "
        f"--port 0 --id word --shared {tmp_path} --logs {tmp_path / 'logs'} train {fields} &\nwait"
    )
    job = start("bash", "-c", script)
    job.until("step 2/400")
    os.kill(job.process.pid, signal.SIGKILL)
    stopped_and_saved(job, out)
    assert list((tmp_path / "logs" / "here").rglob("0/stderr.log"))


def test_the_launcher_and_a_rank_are_killed(start, tmp_path):
    """The others cannot end their step: they go all the same."""
    out = tmp_path / "run"
    job = start(*megaprune("train", *FIELDS, *TWO, "checkpoint.every=1", f"out={out}"))
    job.until("step 3/400")
    ranks = job.ranks()
    os.kill(job.process.pid, signal.SIGKILL)
    os.kill(ranks[1], signal.SIGKILL)
    job.process.wait()
    print(f"gone after {job.gone():.1f} s")
    assert saved(out)
    assert "Traceback" not in job.text or "rank 0 failed" in job.text
    assert "): megaprune train " in job.text


def test_the_launcher_is_killed_before_the_first_step(start, tmp_path):
    job = start(*megaprune("train", *FIELDS, *TWO, f"out={tmp_path / 'run'}"))
    job.until("loading: data")
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.wait()
    assert job.gone() < 15
    assert "which launched it" in job.text


STUCK = """
import sys, time
from megaprune.distributed import world
from megaprune.distributed.objects import all_gather_object
world.ORPHAN_SECONDS = 3.0
def job():
    world.stop_requested()
    if world.rank() == 0:
        print("READY", flush=True)
        time.sleep(600)
    all_gather_object(0)
sys.exit(world.run(job))
"""


def test_ranks_that_cannot_end_their_step(start, tmp_path):
    """One does something else, and the other waits for it: they end at the deadline."""
    (tmp_path / "stuck.py").write_text(STUCK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    job = start(*torchrun, "2", str(tmp_path / "stuck.py"))
    job.until("READY")
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.wait()
    assert 2 < job.gone() < 10
    assert "it could not save within ORPHAN_SECONDS=3" in job.text


def test_a_process_that_a_user_started_outlives_its_shell(start, tmp_path):
    """nohup megaprune train ... & exit."""
    out = tmp_path / "run"
    words = shlex.join(megaprune("train", *FIELDS, "steps=3", f"out={out}"))
    job = start("bash", "-c", f"nohup {words} & echo begun; wait")
    job.until("loading: data")
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.wait()
    job.gone(START_SECONDS)
    assert steps_said(job.text) == [1, 2, 3]
    assert (out / "model").is_dir()


@pytest.mark.parametrize(
    ("count", "number"),
    [(2, signal.SIGTERM), (2, signal.SIGINT), (2, signal.SIGUSR1), (1, signal.SIGINT)],
)
def test_what_goes_on_is_said(start, tmp_path, number, count):
    out = tmp_path / "run"
    two = TWO if count == 2 else []
    fields = [*FIELDS, *two, "checkpoint.every=1", "checkpoint.wait=true", f"out={out}"]
    job = start(*megaprune("train", *fields))
    job.until("step 2/400")
    # As a terminal and a batch system do it: to all of them.
    for pid in {job.process.pid, *(job.ranks().values() if number == signal.SIGUSR1 else [])}:
        os.kill(pid, number)
    job.gone(60)
    job.process.wait()
    assert "Traceback" not in job.text, job.text
    again = shlex.join(["megaprune", "train", *fields])
    assert f": {again}\n" in job.text
    steps = steps_said(job.text)[-1]
    if number == signal.SIGUSR1:
        assert f"stopped: {steps} of 400 steps are done and saved" in job.text
        assert job.process.returncode == os.EX_TEMPFAIL
    else:
        last = saved(out)[-1]
        where = f"{out / 'checkpoints' / last} (step {int(last[5:])} of 400)"
        assert job.text.count(f"; the same command goes on from {where}: {again}\n") == 1
        assert job.process.returncode == 128 + number


# Sockets.


def listening(pids):
    """Addresses that these processes listen on: (address in hex, process)."""
    sockets = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for handle in (Path("/proc") / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets[os.readlink(handle)] = pid
    found = []
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.append((words[1].partition(":")[0], sockets[f"socket:[{words[9]}]"]))
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


@pytest.mark.parametrize("fields", [[], [*TWO, "rollout.tp=2", "wandb.mode=offline"]])
def test_a_job_of_one_host_listens_to_nobody_else(start, tmp_path, fields):
    job = start(*megaprune("train", *FIELDS, *fields, f"out={tmp_path / 'run'}"))
    seen = set()
    end = time.monotonic() + START_SECONDS
    while "step 2/400" not in job.text:  # at the start, too
        job.read()
        seen |= {address for address, _ in listening(job.pids())}
        assert time.monotonic() < end, job.text[-4000:]
        time.sleep(0.05)
    assert seen <= LOOPBACK, seen
    assert seen or not fields  # one process meets nobody
