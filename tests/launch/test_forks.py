"""Processes that are forked instead of started anew: what is theirs, and how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import megaprune
from megaprune.cli import main as command_line
from megaprune.launch import forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")


@pytest.fixture
def fork(tmp_path):
    """Fork one that writes to two files; returns it and what reads them."""
    begun = []

    def begin(*command, **variables):
        out, err = (tmp_path / "out").open("w"), (tmp_path / "err").open("w")
        with out, err:
            kept = {name: value for name, value in os.environ.items() if name != "FORGOTTEN"}
            process = forks._Forked(command, {**kept, "RANK": "3", **variables}, out, err)
        begun.append(process)
        return process, lambda: ((tmp_path / "out").read_text(), (tmp_path / "err").read_text())

    yield begin
    for process in begun:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def test_a_command(fork):
    process, said = fork("--version")
    assert process.wait(30) == 0
    assert said() == (f"{megaprune.__version__}\n", "")
    assert process.poll() == 0  # asked again


def test_a_wrong_command(fork):
    process, said = fork("trian")
    assert process.wait(30) == 2
    assert "invalid choice: 'trian'" in said()[1]


def test_what_is_its_own(fork, monkeypatch):
    def tell():
        kinds = [os.readlink(f"/proc/self/fd/{n}") for n in range(3, 64) if is_open(n)]
        signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
        told = {
            "command": sys.argv[1:], "environment": dict(os.environ),
            "session": os.getsid(0) == os.getpid(), "name": Path("/proc/self/comm").read_text(),
            "sockets": [kind for kind in kinds if kind.startswith("socket:")],
            "default": [signal.getsignal(number) == signal.SIG_DFL for number in signals],
            "interrupted": signal.getsignal(signal.SIGINT) == signal.default_int_handler,
        }  # fmt: skip
        print(json.dumps(told))
        return 7

    monkeypatch.setattr(command_line, "main", tell)
    expected = {**os.environ, "RANK": "3", "OWN": "mine"}
    monkeypatch.setenv("FORGOTTEN", "yes")
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with socket.create_server(("127.0.0.1", 0)):
            process, said = fork("train", "steps=3", OWN="mine")
            assert process.wait(30) == 7
    finally:
        signal.signal(signal.SIGTERM, before)
    told = json.loads(said()[0])
    assert told["command"] == ["train", "steps=3"]
    assert told["environment"] == expected
    assert told["session"]
    assert told["name"] == "megaprune-3\n"
    assert told["sockets"] == []
    assert told["default"] == [True] * 3
    assert told["interrupted"]


def is_open(number):
    return os.path.lexists(f"/proc/self/fd/{number}")


def test_an_error_that_nobody_foresaw(fork, monkeypatch):
    def fail():
        raise ArithmeticError("a number went missing")

    monkeypatch.setattr(command_line, "main", fail)
    process, said = fork("train")
    assert process.wait(30) == 1
    assert "ArithmeticError: a number went missing" in said()[1]


def test_a_signal(fork, monkeypatch):
    monkeypatch.setattr(command_line, "main", lambda: time.sleep(600))
    process, _ = fork("train")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
