"""A pool ends, whatever its workers do and whatever the system does not give."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from megaprune.errors import InputError
from megaprune.grading import Pool, process, wire

OWN = '''
import os, struct, sys, time

def message(content):
    return struct.pack(">Q", len(content)) + content

SAID = {
    "noise": b"\\xff" * 100,
    "no json": message(b"abcde"),
    "not utf-8": message(b'{"match": "\\xff"}'),
    "deep": message(b"[" * 100_000),
    "list": message(b"[1, 2]"),
    "number": message(b"5"),
    "null": message(b"null"),
    "other keys": message(b'{"right": true}'),
    "more keys": message(b'{"match": true, "extracted": null, "why": "right", "key": 1}'),
    "wrong types": message(b'{"match": 1, "extracted": null, "why": "right"}'),
    "wrong word": message(b'{"match": true, "extracted": null, "why": "because"}'),
    "large": struct.pack(">Q", 1 << 60) + b"{}",
    "negative": struct.pack(">q", -1) + b"{}",
    "half": message(b'{"match": true')[:-3],
}

def own(gold, response, finished):
    """Answers for itself, on the pool's socket."""
    if response == "exit": os._exit(7)
    if response == "sleep": time.sleep(30)
    if response in SAID:
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    os.write(int(name), SAID[response])
            except FileNotFoundError:
                pass
        if response == "half":
            time.sleep(30)
    return response == gold
'''
SAID = [
    "noise", "no json", "not utf-8", "deep", "list", "number", "null", "other keys", "more keys",
    "wrong types", "wrong word", "large", "negative", "half",
]  # fmt: skip


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return f"{file}:own"


@pytest.fixture
def in_time(monkeypatch):
    """Waits of half a minute take a second."""
    monkeypatch.setattr(process, "MAY_PASS_SECONDS", 1.0)


def refuse(monkeypatch, number, times=10**9):
    """Let the next starts of a process fail."""
    start, left = subprocess.Popen, [times]

    def popen(*arguments, **options):
        if left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    return left


REFUSALS = ["EAGAIN", "ENOMEM", "EMFILE", "ENFILE", "ENOENT", "EACCES", "ENOEXEC", "EIO"]


@pytest.mark.parametrize("name", REFUSALS)
def test_a_worker_that_cannot_be_started_again(own, monkeypatch, in_time, name):
    number = getattr(errno, name)
    with Pool({}, own, workers=2) as pool:
        refuse(monkeypatch, number)
        for key in range(6):
            pool.submit(key, "", "5", "exit", True)
        begin = time.monotonic()
        with pytest.raises(InputError, match=f"could not be started.*{os.strerror(number)}"):
            pool.results()
        with pytest.raises(InputError, match="could not be started"):
            pool.ready()
        with pytest.raises(InputError, match="could not be started"):
            pool.results()
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("name", REFUSALS[:4])
def test_a_lack_that_passes(own, monkeypatch, name):
    with Pool({}, own) as pool:
        left = refuse(monkeypatch, getattr(errno, name), times=3)
        for key, text in enumerate(["exit", "5", "exit", "5"]):
            pool.submit(key, "", "5", text, True)
        verdicts = pool.results()
    assert left == [0]
    assert [verdicts[key].why for key in range(4)] == ["crash", "right", "crash", "right"]


@pytest.mark.parametrize("name", REFUSALS)
def test_no_worker_at_all(monkeypatch, in_time, name):
    refuse(monkeypatch, getattr(errno, name))
    begin = time.monotonic()
    with pytest.raises(InputError, match="fewer grading.workers"):
        Pool({}, workers=3)
    assert time.monotonic() - begin < 10


def test_the_second_worker_cannot_be_started(monkeypatch, in_time):
    """And the first one is ended."""
    started = []
    start = subprocess.Popen

    def popen(*arguments, **options):
        if started:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(start(*arguments, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(InputError, match="could not be started"):
        Pool({}, workers=2)
    assert started[0].returncode == -signal.SIGKILL


def test_an_interpreter_that_is_gone(own, monkeypatch):
    with Pool({}, own) as pool:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        pool.submit(0, "", "5", "exit", True)
        pool.submit(1, "", "5", "5", True)
        with pytest.raises(InputError, match="No such file.*/nowhere/python"):
            pool.results()


def test_the_last_worker_is_not_missed(own, monkeypatch):
    """All verdicts are there: that no other worker could be started is nobody's harm yet."""
    with Pool({}, own) as pool:
        refuse(monkeypatch, errno.ENOENT)
        pool.submit(0, "", "5", "exit", True)
        assert pool.results()[0].why == "crash"
        pool.submit(1, "", "5", "5", True)
        with pytest.raises(InputError, match="could not be started"):
            pool.results()


def test_too_few_open_files(own):
    """As the system itself says it, in a process of its own."""
    script = """
import resource, sys
from megaprune.grading import Pool, process
process.MAY_PASS_SECONDS = 1.0
from megaprune.errors import InputError
pool = Pool({}, sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
pool.submit(0, "", "5", "exit", True)
pool.submit(1, "", "5", "5", True)
try:
    pool.results()
except InputError as error:
    print(error)
pool.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, own], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Too many open files" in done.stdout, done
    assert done.returncode == 0


def test_no_threads_left(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(InputError, match="a thread that watches a grading worker"):
        Pool({}, workers=2)


@pytest.mark.parametrize("said", SAID)
def test_a_grader_that_answers_for_itself(own, said):
    """Costs its own verdict, or one beside it at the most, and no time beyond the limits."""
    begin = time.monotonic()
    with Pool({}, own, seconds=1) as pool:
        for key, text in enumerate(["5", said, "5", "5", "5"]):
            pool.submit(key, "", "5", text, True)
        verdicts = pool.results()
    assert time.monotonic() - begin < 30
    assert verdicts[1].why in ("crash", "timeout")
    assert sum(verdicts[key].match for key in (0, 2, 3, 4)) >= 3


def test_results_do_not_wait_for_ever(own):
    """A worker whose limit were never kept is named, with its process."""
    with Pool({}, own, seconds=20) as pool:
        pool.submit(0, "", "5", "sleep", True)
        pool._patience = 0.3
        with pytest.raises(InputError, match=rf"no verdict for 0.3 s .*\[{pool.pids[0]}\]"):
            pool.results()


def test_any_error_of_a_watcher_is_raised(own, monkeypatch):
    """And not only what is foreseen: whoever waits must not wait for a thread that is dead."""

    def grade(*_):
        raise KeyError("unforeseen")

    with Pool({}, own) as pool:
        monkeypatch.setattr(process.GradingWorker, "grade", grade)
        pool.submit(0, "", "5", "5", True)
        with pytest.raises(KeyError, match="unforeseen"):
            pool.results()


def test_a_stopped_worker_has_its_limit(own):
    with Pool({}, own, seconds=0.5) as pool:
        os.kill(pool.pids[0], signal.SIGSTOP)
        pool.submit(0, "", "5", "5", True)
        pool.submit(1, "", "5", "5", True)
        verdicts = pool.results()
    assert verdicts[0].why == "timeout"
    assert verdicts[1].match


def test_close_while_a_worker_cannot_be_started(own, monkeypatch):
    with Pool({}, own) as pool:
        refuse(monkeypatch, errno.EAGAIN)
        pool.submit(0, "", "5", "exit", True)
        pool.submit(1, "", "5", "5", True)
        time.sleep(1.5)
        begin = time.monotonic()
    assert time.monotonic() - begin < 5


def test_a_process_that_does_not_die(own, monkeypatch):
    """As one that waits for a disk that is gone: it is named."""
    monkeypatch.setattr(process, "END_SECONDS", 0.2)
    pool = Pool({}, own)
    pid = pool.pids[0]
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda *_: None)
        with pytest.raises(InputError, match=f"grading worker {pid} has not ended 0.2 s after"):
            pool.close()
    pool.close()


def test_a_process_is_killed_while_it_is_reaped(monkeypatch):
    """By another thread, between the system's word that it has ended and Python's note of it."""
    worker = process.GradingWorker([], process.GradingLimits(1.0, 1 << 30))
    held = worker._process
    reaped, killed = threading.Event(), []
    wait = held.popen.wait

    def slow(*arguments):
        status = os.waitpid(held.popen.pid, 0)[1]
        reaped.set()
        time.sleep(0.3)
        held.popen.returncode = os.waitstatus_to_exitcode(status)
        return wait(*arguments)

    held.kill()
    monkeypatch.setattr(held.popen, "wait", slow)
    monkeypatch.setattr(os, "killpg", lambda *arguments: killed.append(arguments))
    thread = threading.Thread(target=held.wait)
    thread.start()
    assert reaped.wait(30)
    worker.close()
    thread.join()
    assert killed == []
    assert held.popen.returncode == -signal.SIGKILL
    monkeypatch.undo()
    worker.release()


def test_a_message_that_trickles(own):
    """Each byte comes in time, and the whole does not."""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ended = threading.Event()

        def trickle():
            for byte in (100).to_bytes(8, "big") + b"x" * 100:
                if ended.wait(0.05):
                    return
                theirs.sendall(bytes([byte]))

        thread = threading.Thread(target=trickle)
        thread.start()
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.receive(ours, 0.5)
        assert time.monotonic() - begin < 2
        ended.set()
        thread.join()
