"""One process has a place: those of this machine, of others, of file systems without locks."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megaprune import lease as leases
from megaprune.errors import InputError
from megaprune.files import process_record
from megaprune.lease import Lease, holder_of, remove_dead_leases

PROGRAM = """
import errno, fcntl, os, sys, time
from pathlib import Path

from megaprune import lease
from megaprune.errors import InputError

path, number, start, what = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:]
lease.RENEWED_SECONDS = 0.1
lease.EXPIRES_SECONDS = 1.0
if number in errno.__dict__:
    def flock(handle, how):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))
    fcntl.flock = flock
time.sleep(max(0.0, start - time.time()))
try:
    mine = lease.Lease(path, path.parent)
except InputError as error:
    print("refused:", error, flush=True)
    sys.exit(3)
print("has it", flush=True)
if "crash" in what:
    os.kill(os.getpid(), 9)
if "end" in what:
    sys.stdin.readline()
    mine.check()
    mine.close()
    sys.exit(0)
while True:
    time.sleep(0.05)
    try:
        mine.check()
    except InputError as error:
        print("lost:", error, flush=True)
        sys.exit(4)
"""
SECONDS = 30
RACES = int(os.environ.get("MEGAPRUNE_TEST_RACES", "2"))


@pytest.fixture
def processes():
    """Start processes that want a lease; those that are left are killed."""
    started = []

    def start(path, *what, flock="works", at=0.0):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), flock, str(at), *what],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".megaprune-lease"


def has(process):
    line = process.stdout.readline()
    assert line == "has it\n", line + process.stdout.read()


def refused(process, *words):
    said = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 3, said
    assert said.splitlines()[-1].startswith("refused:")
    assert [word for word in words if word not in said] == [], said
    return said


def of_another_machine(path, **more):
    """The lease of a process that this machine cannot ask for."""
    content = {
        "format": "megaprune lease", "token": "0" * 16, "host": "far", **process_record(),
        "machine": "far away", "pid": 1234, **more,
    }  # fmt: skip
    path.write_text(json.dumps(content))


FLOCK = ["works", "ENOLCK", "EOPNOTSUPP"]


@pytest.mark.parametrize("flock", FLOCK)
def test_the_second_is_refused_and_told_who_has_it(processes, path, flock):
    first = processes(path, flock=flock)
    has(first)
    host = json.loads(path.read_text())["host"]
    begin = time.monotonic()
    refused(processes(path, flock=flock), f"process {first.pid} of {host}", str(path.parent))
    assert time.monotonic() - begin < 10
    assert holder_of(path) == f"process {first.pid} of {host}"


@pytest.mark.parametrize("flock", FLOCK)
@pytest.mark.parametrize("waited_for", [True, False])
def test_a_killed_process_has_nothing(processes, path, flock, waited_for):
    first = processes(path, flock=flock)
    has(first)
    first.send_signal(signal.SIGKILL)
    if waited_for:
        first.wait()
    else:  # as where a container has no init: it stays in the table of processes
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert holder_of(path) is None
    has(processes(path, flock=flock))


def test_a_closed_one_leaves_nothing(path):
    lease = Lease(path, path.parent)
    lease.check()
    lease.close()
    lease.close()
    assert list(path.parent.iterdir()) == []


def has_it_once(path):
    lease = Lease(path, path.parent)
    with pytest.raises(InputError, match=f"process {os.getpid()} of"):
        Lease(path, path.parent)
    lease.check()
    lease.close()
    assert list(path.parent.iterdir()) == []


def test_one_process_has_it_once(path):
    has_it_once(path)


@pytest.mark.parametrize("flock", FLOCK)
def test_another_machine_that_is_silent(processes, path, flock):
    of_another_machine(path)
    assert holder_of(path) is None  # it is not known: a job may try
    begin = time.monotonic()
    process = processes(path, flock=flock)
    line = process.stdout.readline()
    assert "was used by process 1234 of far; waiting up to 1 s" in line
    has(process)
    assert time.monotonic() - begin > 1


@pytest.mark.parametrize("flock", FLOCK)
def test_another_machine_that_renews(processes, path, flock):
    of_another_machine(path)
    process = processes(path, flock=flock)
    assert "waiting up to 1 s" in process.stdout.readline()
    before = path.read_bytes()
    while process.poll() is None:
        os.utime(path)
        time.sleep(0.1)
    refused(process, "is being written by process 1234 of far")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_another_machine_whose_lock_is_seen(processes, path):
    """As on NFS: no waiting is needed."""
    first = processes(path)
    has(first)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "machine": "far away", "host": "far"}))
    assert holder_of(path) == f"process {first.pid} of far"
    assert "waiting" not in refused(processes(path), f"process {first.pid} of far")


def test_a_holder_renews(processes, path):
    has(processes(path))
    before = path.stat().st_mtime_ns
    end = time.monotonic() + SECONDS
    while path.stat().st_mtime_ns == before:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["taken", "removed"])
def test_a_lease_that_is_lost_is_noticed(processes, path, how):
    first = processes(path)
    has(first)
    if how == "taken":
        other = path.with_name("other")
        of_another_machine(other)
        other.replace(path)
    else:
        path.unlink()
    assert first.stdout.readline().startswith(f"lost: {path.parent} was taken over")
    assert first.wait(SECONDS) == 4
    assert path.exists() == (how == "taken")


@pytest.mark.parametrize("flock", ["works", "ENOLCK"])
def test_a_stopped_process_that_lost_it_is_told(processes, path, flock):
    """It was suspended for so long that another machine took it for dead."""
    first = processes(path, flock=flock)
    has(first)
    first.send_signal(signal.SIGSTOP)
    content = json.loads(path.read_text())
    aside = path.with_name("aside")
    aside.write_text(json.dumps({**content, "machine": "far away"}))
    aside.replace(path)
    second = processes(path, flock=flock)
    assert "waiting up to" in second.stdout.readline()
    has(second)
    first.send_signal(signal.SIGCONT)
    assert first.stdout.readline().startswith("lost: ")
    assert first.wait(SECONDS) == 4
    assert second.poll() is None


FOREIGN = {
    "text": b"years of work\n",
    "JSON": b'{"format": "mine"}',
    "a list": b"[1, 2]",
    "no token": b'{"format": "megaprune lease"}',
    "deep": b"[" * 100_000,
    "bytes": b"\xff\x00" * 100,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_somebody_else(path, name):
    path.write_bytes(FOREIGN[name])
    before = path.stat()
    with pytest.raises(InputError, match="is no lease of megaprune's; move it elsewhere"):
        Lease(path, path.parent)
    assert path.read_bytes() == FOREIGN[name]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("what", ["empty", "folder", "fifo"])
def test_something_else_of_somebody(path, what, monkeypatch):
    monkeypatch.setattr(leases, "_MADE_SECONDS", 0.2)
    {"empty": path.touch, "folder": path.mkdir, "fifo": lambda: os.mkfifo(path)}[what]()
    with pytest.raises(InputError, match="is no lease of megaprune's"):
        Lease(path, path.parent)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_followed(tmp_path, path, there):
    target = tmp_path / "elsewhere" / "file"
    target.parent.mkdir()
    if there:
        of_another_machine(target)
    path.symlink_to(target)
    before = target.read_bytes() if there else None
    with pytest.raises(InputError, match="is no lease of megaprune's"):
        Lease(path, path.parent)
    assert path.is_symlink()
    assert (target.read_bytes() if target.exists() else None) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_what_killed_ones_left_is_removed(processes, path):
    dead = processes(path, "crash")
    dead.wait()
    left = path.with_name(path.name + ".0123456789abcdef")
    os.rename(path, left)
    mine = path.with_name(path.name + ".notes")
    mine.write_text("a user's")
    far = path.with_name(path.name + ".far")
    of_another_machine(far)
    lease = Lease(path, path.parent)
    assert not left.exists()
    assert mine.exists()
    assert far.exists()
    lease.close()


def test_threads_that_close_it_at_the_same_moment(path):
    """A signal's thread gives back all leases while the main one closes its own."""
    for _ in range(20):
        lease = Lease(path, path.parent)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _, lease=lease: lease.close(), range(8)))
        assert not path.exists()


def test_a_lock_that_is_held_for_a_moment(path):
    """Whoever replaces the lease of a dead process locks it: that is no sign of life."""
    of_another_machine(path)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        release = threading.Timer(0.3, fcntl.flock, (file, fcntl.LOCK_UN))
        release.start()
        assert holder_of(path) is None
        release.join()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder_of(path) == "process 1234 of far"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(path, number, monkeypatch):
    def link(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    has_it_once(path)


@pytest.mark.parametrize("flock", FLOCK)
@pytest.mark.parametrize("dead", ["here", "elsewhere", "nobody"])
def test_a_race(processes, path, dead, flock):
    """Eight processes want it at the same moment: one gets it, and the others say who that is."""
    for _ in range(RACES):
        if dead == "here":
            processes(path, "crash", flock=flock).wait()
            assert path.exists()
        elif dead == "elsewhere":
            of_another_machine(path)
        racers = [processes(path, "end", flock=flock, at=time.time() + 1.0) for _ in range(8)]
        end = time.monotonic() + SECONDS
        while sum(racer.poll() is None for racer in racers) > 1:
            assert time.monotonic() < end
            time.sleep(0.02)
        (winner,) = [racer for racer in racers if racer.poll() is None]
        said = [racer.communicate("end\n", timeout=SECONDS)[0] for racer in racers]
        assert sorted(racer.returncode for racer in racers) == [0] + [3] * 7, said
        # Where nothing can be locked, the one that is named may have lost it to another since.
        holders = {winner.pid} if flock == "works" else {racer.pid for racer in racers}
        named = re.findall(r"is being written by process (\d+) of", "".join(said))
        assert len(named) == 7, said
        assert {int(pid) for pid in named} <= holders, said
        assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("flock", ["works", "ENOLCK"])
def test_two_mounts_of_one_folder(processes, tmp_path, flock):
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    try:
        mount = subprocess.run(
            ["mount", "--bind", str(folder), str(other)],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mount.returncode:
        pytest.skip(f"a folder cannot be mounted twice: {mount.stderr.strip()}")
    try:
        first = processes(folder / "lease", flock=flock)
        has(first)
        refused(processes(other / "lease", flock=flock), f"process {first.pid} of")
        first.kill()
        first.wait()
        second = processes(other / "lease", flock=flock)
        has(second)
        refused(processes(folder / "lease", flock=flock), f"process {second.pid} of")
        second.kill()
        second.wait()
    finally:
        subprocess.run(["umount", "-l", str(other)], check=True)


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        Lease(tmp_path / "nowhere" / "lease", tmp_path)
    assert list(Path(tmp_path).iterdir()) == []


def test_dead_leases_of_places_in_a_folder(processes, tmp_path):
    """Those of killed processes go; all that anyone may still need stays."""
    inner = tmp_path / "checkpoints"
    inner.mkdir()
    dead, alive, far, thesis, own = (
        inner / f"{name}.megaprune-lease" for name in (".dead", ".alive", ".far", ".thesis", "")
    )
    for path in (dead, own):
        processes(path, "crash").wait()
    living = processes(alive, "end")
    assert living.stdout.readline() == "has it\n"
    of_another_machine(far)
    thesis.write_text("years of work")
    remove_dead_leases(tmp_path)
    assert {path.name for path in inner.iterdir()} == {alive.name, far.name, thesis.name, own.name}
    living.communicate("end\n", timeout=SECONDS)
