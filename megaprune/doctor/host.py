"""The machine itself: Python, cores, memory, limits, disks."""

from __future__ import annotations

import platform
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import megaprune
from megaprune.doctor.commands import cores
from megaprune.doctor.finding import Finding, size
from megaprune.doctor.machine import Machine

SHARED = 1 << 30
"""Bytes that vLLM's ranks may want of shared memory."""

OPEN_FILES = 1024
PROCESSES = 2048  # threads count, too


def check_python(_: Machine) -> Finding:
    """Which one it is: an older one than setup.py says does not get this far."""
    found = f"{platform.python_version()} ({sys.executable}), megaprune {megaprune.__version__}"
    return Finding("Python", "ok", found, None, True)


def check_host(_: Machine) -> Finding:
    """Cores and memory that a job may use."""
    memory = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, value, *_unit = line.replace(":", " ").split()
            memory[key] = int(value) * 1024
    except FileNotFoundError:
        return Finding("host", "ok", f"{cores()} cores; memory is not known")
    found = f"{cores()} cores, {size(memory['MemTotal'])} of memory"
    found += f", {size(memory['MemAvailable'])} free"
    limit = _cgroup_memory()
    if limit is not None and limit < memory["MemTotal"]:
        found += f"; at most {size(limit)} for this job or container"
    return Finding("host", "ok", found)


def check_shared_memory(_: Machine) -> Finding:
    """/dev/shm, through which the ranks of a vLLM engine talk."""
    name, place = "shared memory", Path("/dev/shm")
    if not place.is_dir():
        return Finding(name, "missing", f"there is no {place}")
    usage = shutil.disk_usage(place)
    found = f"{place}: {size(usage.total)}, {size(usage.free)} free"
    if usage.total < SHARED:
        mend = f"mount -o remount,size=16G {place}  # in Docker: --ipc=host, or --shm-size=16g"
        return Finding(name, "wrong", f"{found}; too small for vLLM with tp above 1", mend)
    if usage.free < SHARED:
        mend = f"ls -l {place}  # remove what ended jobs have left"
        return Finding(name, "wrong", f"{found}; too little for vLLM with tp above 1", mend)
    return Finding(name, "ok", found)


def check_open_files(_: Machine) -> Finding:
    """How many files and sockets a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)} (may be raised to {_limit(hard)})"
    if _below(soft, OPEN_FILES):
        return Finding("open files", "wrong", f"{found}; too few", "ulimit -n 65536")
    return Finding("open files", "ok", found)


def check_locked_memory(_: Machine) -> Finding:
    """Memory that may be locked, which InfiniBand needs without a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = "unlimited" if soft == resource.RLIM_INFINITY else size(soft)
    adapters = Path("/sys/class/infiniband")
    if not adapters.is_dir() or not any(adapters.iterdir()):
        return Finding("locked memory", "ok", f"{found}; there is no InfiniBand to need it")
    if soft == resource.RLIM_INFINITY:
        return Finding("locked memory", "ok", found)
    mend = "ulimit -l unlimited"
    if hard != resource.RLIM_INFINITY:
        mend += "  # as root; in Slurm: LimitMEMLOCK=infinity for slurmd"
    return Finding("locked memory", "wrong", f"{found}; InfiniBand needs it unlimited", mend)


def check_processes(_: Machine) -> Finding:
    """Processes and threads that the user may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    found = f"{_limit(soft)} (may be raised to {_limit(hard)})"
    if _below(soft, PROCESSES):
        return Finding("processes", "wrong", f"{found}; too few", "ulimit -u 65536")
    return Finding("processes", "ok", found)


def check_out(machine: Machine) -> Finding:
    """The folder that a job would write to."""
    out = place = machine.out.absolute()
    while not place.exists():  # a job makes it
        place = place.parent
    name, mend = "output folder", "megaprune doctor --out DIR  # another folder"
    if not place.is_dir():
        return Finding(name, "wrong", f"{place} is not a folder", mend)
    free = f"{size(shutil.disk_usage(place).free)} free"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return Finding(name, "wrong", f"{place} cannot be written: {error.strerror}; {free}", mend)
    made = "" if place == out else f", to be made in {place}"
    return Finding(name, "ok", f"{out}{made}: writable, {free}")


def _limit(count: int) -> str:
    return "unlimited" if count == resource.RLIM_INFINITY else str(count)


def _below(count: int, least: int) -> bool:
    return count != resource.RLIM_INFINITY and count < least


def _cgroup_memory() -> int | None:
    """The least limit of the control groups that this process is in."""
    root = Path("/sys/fs/cgroup")
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    limits = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = Path(path.lstrip("/"))
        for group in (inner, *inner.parents):
            try:
                text = (base / group / file).read_text(encoding="ascii").strip()
            except OSError:  # in a container, the host's path
                continue
            limits += [int(text)] if text.isdigit() else []
    return min(limits, default=None)
