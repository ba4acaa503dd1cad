"""Where processes meet: on one address, which only those who should can reach."""

import os
import socket
import subprocess
import sys
import threading
from argparse import Namespace
from datetime import timedelta

import pytest

from megaprune.distributed import stores
from megaprune.distributed.launchers import LAUNCHERS, Launchers, name_launcher
from megaprune.errors import InputError
from megaprune.launch import node

SOON = timedelta(seconds=10)


def reached(address, port):
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def test_a_store_listens_on_one_address():
    """127.0.0.2 is the same host, and another address of it."""
    from torch.distributed import TCPStore

    store = stores.listening_store("127.0.0.1", 0, SOON)
    other = TCPStore("127.0.0.1", store.port, is_master=False, timeout=SOON)
    other.set("key", "value")
    assert store.get("key") == b"value"
    assert reached("127.0.0.1", store.port)
    assert not reached("127.0.0.2", store.port)
    # What this is for: torch by itself, and where several hosts are to reach it.
    assert reached(
        "127.0.0.2", TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port
    )
    assert reached("127.0.0.2", stores.listening_store("", 0, SOON).port)


def test_a_port_that_is_taken_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        stores.listening_store("127.0.0.1", taken.getsockname()[1], SOON)


JOB = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "0"}


@pytest.mark.parametrize(
    ("variables", "stays"),
    [
        ({"MASTER_ADDR": "node1"}, True),
        ({"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": "1"}, True),
        ({"MASTER_ADDR": "localhost", "LOCAL_WORLD_SIZE": "1"}, True),
        ({"MASTER_ADDR": "node1", "LOCAL_WORLD_SIZE": "1"}, False),
        ({"MASTER_ADDR": "node1", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "1"}, True),
    ],
)
def test_a_job_of_one_host_stays_there(monkeypatch, variables, stays):
    """Whatever a cluster sets for all jobs; one of several hosts is left as it is."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_HOST_IP")
    for name, value in {**JOB, **dict.fromkeys(names, "ib0"), **variables}.items():
        monkeypatch.setenv(name, value)
    stores.keep_to_host()
    expected = ["lo", "lo", "127.0.0.1"] if stays else ["ib0"] * 3
    assert [os.environ[name] for name in names] == expected


def test_the_address_of_a_network():
    assert node.address_of("lo") == "127.0.0.1"
    with pytest.raises(InputError, match=r"INTERFACE=nowhere has no IPv4 address here.*has lo"):
        node.address_of("nowhere")


def options(folder, **more):
    given = {"interface": "", "shared": str(folder), "id": "word", "port": 1234}
    return Namespace(**{**given, **more})


def test_nodes_find_the_first(tmp_path):
    """By its name, or by the address that it says of the network that is named."""
    assert node._addresses(options(tmp_path), 0, ["a"]) == ("127.0.0.1", "127.0.0.1")
    assert node._addresses(options(tmp_path), 0, ["a", "b"]) == ("", "a")
    assert node._addresses(options(tmp_path), 1, ["a", "b"]) == ("", "a")
    named = options(tmp_path, interface="lo")
    found = []
    second = threading.Thread(target=lambda: found.append(node._addresses(named, 1, ["a", "b"])))
    second.start()
    assert node._addresses(named, 0, ["a", "b"]) == ("127.0.0.1", "127.0.0.1")
    second.join(10)
    assert found == [("", "127.0.0.1")]


def test_a_first_node_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "ADDRESS_SECONDS", 0.3)
    with pytest.raises(InputError, match=r"a did not say its address in .* in 0.3 s"):
        node._addresses(options(tmp_path, interface="lo"), 1, ["a", "b"])


def test_a_node_that_is_none_of_the_jobs(tmp_path, capsys):
    words = ["--nodes", "a,b", "--name", "c", "--processes", "1", "--port", "1", "--id", "word"]
    assert node.main([*words, "--shared", str(tmp_path), "--logs", str(tmp_path), "train"]) == 1
    assert "c: this node is c, which is not among a,b" in capsys.readouterr().err


def test_launchers_are_known_by_name(monkeypatch):
    """Those that are named, and no others: a shell is not."""
    import signal

    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv(LAUNCHERS, raising=False)
    assert Launchers(signal.SIGUSR1).gone() is None
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv(LAUNCHERS, str(ended.pid))
    name_launcher()
    assert os.environ[LAUNCHERS] == f"{ended.pid} {os.getpid()}"
    launchers = Launchers(signal.SIGUSR1)
    assert launchers.gone() is None
    ended.kill()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert launchers.gone() == ended.pid  # though nobody has waited for it
    ended.wait()
    assert launchers.gone() == ended.pid
    assert Launchers(signal.SIGUSR1).gone() == ended.pid  # it had ended before this one looked
