"""What may happen to a worker, and that the others' verdicts stand."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megaprune.errors import InputError
from megaprune.grading import Pool, Verdict

OWN = '''
import ctypes, os, subprocess, sys, time

def own(gold, response, finished):
    """Does what the response says."""
    if response == "raise": raise KeyError("no such key")
    if response == "exit": os._exit(7)
    if response == "sys.exit": sys.exit(3)
    if response == "segfault": ctypes.string_at(0)
    if response == "hog": return len([bytes(1 << 20) for _ in range(1 << 14)]) > 0
    if response == "sleep": time.sleep(1000)
    if response == "spin":
        while True: pass
    if response == "big": 9 ** 9 ** 9
    if response == "child": subprocess.run(["sleep", "1000.25"])
    if response == "print": print("this is no verdict", flush=True)
    if response == "read": sys.stdin.read()
    if response == "none": return None
    return response == gold
'''


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return f"{file}:own"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids, seconds):
    until = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_a_step_of_2048_answers():
    with Pool({"aime": "strict", "bare": "answer"}, workers=2) as pool:
        thought = "so " * 5000
        for key in range(2048):
            response = f"{thought}</think> It is \\boxed{{{key % 100}}}."
            pool.submit(key, "aime", str(key % 128), response, key % 3 > 0)
        begin = time.monotonic()
        verdicts = pool.results()
        assert time.monotonic() - begin < 10
        assert pool.pending == 0
        assert pool.stats.graded == 2048
        assert pool.stats.failed == 0
        for key, verdict in verdicts.items():
            assert verdict.match == (key % 100 == key % 128 and key % 3 > 0)
            assert verdict.extracted == (str(key % 100) if key % 3 else None)
        pool.submit(("any", "key"), "bare", r"\frac12", "0.5", True)
        assert pool.results() == {("any", "key"): Verdict(True, "0.5", "right")}
        assert pool.results() == {}


def test_sources_choose_their_graders(own):
    with Pool({"a": own, "b": "lenient"}, "answer") as pool:
        for source in "abc":
            pool.submit(source, source, "5", r"\boxed{500}", True)
        pool.submit("d", "a", "5", "5", False)
        verdicts = pool.results()
    assert [verdicts[key].match for key in "abcd"] == [False, True, False, True]


def test_verdicts_as_they_come():
    """`ready` gives each once and waits for none; `results` gives the rest."""
    with Pool({}, workers=1) as pool:
        for number in range(50):
            pool.submit(number, "any", "7", f"</think>\\boxed{{{number}}}", True)
        early = {}
        while not early:
            early = pool.ready()
        rest = pool.results()
        assert not early.keys() & rest.keys()
        assert (early | rest).keys() == set(range(50))
        assert [number for number, verdict in (early | rest).items() if verdict.match] == [7]
        assert pool.ready() == {}
        pool.submit(0, "any", "7", "</think>\\boxed{7}", True)  # the key is free again
        assert pool.results()[0].match


@pytest.mark.parametrize(
    ("response", "why", "detail"),
    [
        ("raise", "crash", "KeyError: 'no such key'"),
        ("exit", "crash", "ended with status 7"),
        ("sys.exit", "crash", "ended with status 3"),
        ("segfault", "crash", "killed by SIGSEGV"),
        ("none", "crash", "returned None; expected True, False or a Verdict"),
        ("hog", "memory", ""),
        ("sleep", "timeout", "after 4 s"),
        ("spin", "timeout", "after 1 s of CPU time|after 4 s"),
        ("big", "timeout", "after 1 s of CPU time|after 4 s"),
    ],
)
def test_a_grader_that_fails_is_counted_apart_and_costs_the_others_nothing(
    own, response, why, detail
):
    with Pool({}, own, seconds=1) as pool:
        begin = time.monotonic()
        for key, text in enumerate(["5", response, "5", response, "6"]):
            pool.submit(key, "", "5", text, True)
        verdicts = pool.results()
        assert time.monotonic() - begin < 25
        assert [verdicts[key].match for key in range(5)] == [True, False, True, False, False]
        assert [verdicts[key].failed for key in range(5)] == [False, True, False, True, False]
        for key in (1, 3):
            assert verdicts[key].why == why
            assert re.search(detail, verdicts[key].detail)
        assert (pool.stats.graded, pool.stats.failed) == (5, 2)


def test_a_graders_children_are_killed_with_it(own):
    with Pool({}, own, seconds=1) as pool:
        pool.submit(0, "", "5", "child", True)
        assert pool.results()[0].why == "timeout"
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"1000.25" in command for command in running)


def test_what_a_grader_prints_and_reads_is_no_verdict(own, capfd):
    with Pool({}, own) as pool:
        pool.submit("print", "", "print", "print", True)
        pool.submit("read", "", "read", "read", True)
        assert all(verdict.match for verdict in pool.results().values())
    out, err = capfd.readouterr()
    assert out == ""
    assert "this is no verdict" in err


def test_the_answer_of_a_grader_that_failed_is_kept():
    slow = r"\sum_{k=1}^{1000}\frac1k"
    with Pool({}, seconds=0.002) as pool:
        pool.submit(0, "", "5", rf"</think>\boxed{{{slow}}}", True)
        verdict = pool.results()[0]
        assert (verdict.match, verdict.extracted, verdict.why) == (False, slow, "timeout")


def test_megabytes_pass(own):
    with Pool({}, own) as pool:
        text = "\ud800é\x00" + "x" * 3_000_000
        pool.submit(0, "", text, text, True)
        assert pool.results()[0].match


def test_workers_killed_in_a_run(own):
    with Pool({}, own, workers=2, seconds=20) as pool:
        victims = pool.pids
        pool.submit("victim", "", "", "sleep", True)
        time.sleep(0.5)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        for key in range(20):
            pool.submit(key, "", "5", "5", True)
        verdicts = pool.results()
        assert verdicts["victim"] == Verdict(
            False, None, "crash", "the worker was killed by SIGKILL"
        )
        # The idle one may take one answer with it before its end is seen.
        assert sum(verdicts[key].match for key in range(20)) >= 19
        assert set(pool.pids).isdisjoint(victims)


def test_signals_for_the_trainer_do_not_end_a_worker(own):
    with Pool({}, own) as pool:
        pids = pool.pids
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(pids[0], number)
        pool.submit(0, "", "5", "5", True)
        assert pool.results()[0].match
        assert pool.pids == pids


def test_close_ends_workers_also_in_the_midst_of_an_answer(own):
    with Pool({}, own, workers=2, seconds=100) as pool:
        pids = pool.pids
        for key in range(5):
            pool.submit(key, "", "5", "spin", True)
        time.sleep(0.3)
        assert pool.pending == 5
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    assert gone(pids, 1)
    with pytest.raises(ValueError, match="closed"):
        pool.submit(9, "", "5", "5", True)
    with pytest.raises(ValueError, match="closed"):
        pool.results()
    pool.close()


ORPHANS = """
import os, sys, time
from megaprune.grading import Pool
pool = Pool({}, sys.argv[1], workers=2, seconds=1)
if sys.argv[2] == "fork" and os.fork() == 0:
    time.sleep(30)  # a child that holds the sockets open
for key in range(4 if sys.argv[2] in ("spin", "sleep") else 0):
    pool.submit(key, "", "", sys.argv[2], True)
print(*pool.pids, flush=True)
time.sleep(0.3)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("doing", ["nothing", "spin", "sleep", "fork"])
def test_no_worker_outlives_a_killed_trainer(own, doing):
    child = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, own, doing],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = list(map(int, child.stdout.readline().split()))
    assert len(pids) == 2
    assert child.wait() == -signal.SIGKILL
    try:
        assert gone(pids, 10)
    finally:
        if doing == "fork":
            os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1/0", "cannot import .*ZeroDivisionError"),
        ("import os; os._exit(5)", "did not start, 3 times: the worker ended with status 5"),
        ("x = bytearray(1 << 40)\ndef own(): pass", "cannot import .*MemoryError|within .* bytes"),
        ("def other(): pass", "has no 'own', which is to be a grader"),
    ],
)
def test_a_grader_that_cannot_be_loaded_is_an_error_at_once(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=message):
        Pool({"a": f"{tmp_path / 'own.py'}:own"})


def test_a_grader_that_cannot_be_loaded_again_is_an_error_of_the_results(own):
    with Pool({}, own) as pool:
        Path(own.removesuffix(":own")).write_text("1/0")
        pool.submit(0, "", "5", "exit", True)
        pool.submit(1, "", "5", "5", True)
        with pytest.raises(InputError, match="ZeroDivisionError"):
            pool.results()


def test_too_little_memory_is_an_error():
    with pytest.raises(
        InputError, match="within 16777216 bytes|memory limit is too small: 16777216 bytes"
    ):
        Pool({}, memory_bytes=16 << 20)


def test_wrong_use():
    with pytest.raises(InputError, match="workers=0"):
        Pool({}, workers=0)
    with Pool({}) as pool:
        pool.submit(0, "", "5", "5", False)
        with pytest.raises(ValueError, match="submitted before"):
            pool.submit(0, "", "5", "5", False)
        assert pool.results()[0].why == "cut off"
        pool.submit(0, "", "5", "5", False)
