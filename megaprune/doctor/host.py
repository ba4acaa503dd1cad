"""The machine and what is around it: limits, memory, disks, the HF cache, W&B, Slurm."""

from __future__ import annotations

import netrc
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import megaprune
from megaprune.doctor.findings import Finding, readable_size
from megaprune.doctor.inspection import Inspection, usable_cores

SHARED = 1 << 30
"""Bytes that vLLM's ranks may want of shared memory."""

OPEN_FILES = 1024
PROCESSES = 2048  # threads count, too

SLURM_COMMANDS = ("sinfo", "sbatch", "srun", "scontrol")

TRUE = {"1", "true", "yes", "on"}

# The machine itself.


def check_python(_: Inspection) -> Finding:
    """Name the Python: an older one than setup.py says does not get this far."""
    detail = f"{platform.python_version()} ({sys.executable}), megaprune {megaprune.__version__}"
    return Finding("Python", "ok", detail, None, True)


def check_host(_: Inspection) -> Finding:
    """Say which cores and memory a job may use."""
    memory = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, value, *_unit = line.replace(":", " ").split()
            memory[key] = int(value) * 1024
    except FileNotFoundError:
        return Finding("host", "ok", f"{usable_cores()} cores; memory is not known")
    detail = f"{usable_cores()} cores, {readable_size(memory['MemTotal'])} of memory"
    detail += f", {readable_size(memory['MemAvailable'])} free"
    limit = _cgroup_memory()
    if limit is not None and limit < memory["MemTotal"]:
        detail += f"; at most {readable_size(limit)} for this job or container"
    return Finding("host", "ok", detail)


def check_shared_memory(_: Inspection) -> Finding:
    """Check /dev/shm, through which the ranks of a vLLM engine talk."""
    name, place = "shared memory", Path("/dev/shm")
    if not place.is_dir():
        return Finding(name, "missing", f"there is no {place}")
    usage = shutil.disk_usage(place)
    detail = f"{place}: {readable_size(usage.total)}, {readable_size(usage.free)} free"
    if usage.total < SHARED:
        fix = f"mount -o remount,size=16G {place}  # in Docker: --ipc=host, or --shm-size=16g"
        return Finding(name, "wrong", f"{detail}; too small for vLLM with tp above 1", fix)
    if usage.free < SHARED:
        fix = f"ls -l {place}  # remove what ended jobs have left"
        return Finding(name, "wrong", f"{detail}; too little for vLLM with tp above 1", fix)
    return Finding(name, "ok", detail)


def check_open_files(_: Inspection) -> Finding:
    """Check how many files and sockets a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"{_limit(soft)} (may be raised to {_limit(hard)})"
    if _below(soft, OPEN_FILES):
        return Finding("open files", "wrong", f"{detail}; too few", "ulimit -n 65536")
    return Finding("open files", "ok", detail)


def check_locked_memory(_: Inspection) -> Finding:
    """Check the memory that may be locked, which InfiniBand needs without a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    detail = "unlimited" if soft == resource.RLIM_INFINITY else readable_size(soft)
    adapters = Path("/sys/class/infiniband")
    if not adapters.is_dir() or not any(adapters.iterdir()):
        return Finding("locked memory", "ok", f"{detail}; there is no InfiniBand to need it")
    if soft == resource.RLIM_INFINITY:
        return Finding("locked memory", "ok", detail)
    fix = "ulimit -l unlimited"
    if hard != resource.RLIM_INFINITY:
        fix += "  # as root; in Slurm: LimitMEMLOCK=infinity for slurmd"
    return Finding("locked memory", "wrong", f"{detail}; InfiniBand needs it unlimited", fix)


def check_processes(_: Inspection) -> Finding:
    """Check how many processes and threads the user may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    detail = f"{_limit(soft)} (may be raised to {_limit(hard)})"
    if _below(soft, PROCESSES):
        return Finding("processes", "wrong", f"{detail}; too few", "ulimit -u 65536")
    return Finding("processes", "ok", detail)


def check_out(machine: Inspection) -> Finding:
    """Check the folder that a job would write to."""
    out = place = machine.out.absolute()
    while not place.exists():  # a job makes it
        place = place.parent
    name, fix = "output folder", "megaprune doctor --out DIR  # another folder"
    if not place.is_dir():
        return Finding(name, "wrong", f"{place} is not a folder", fix)
    free = f"{readable_size(shutil.disk_usage(place).free)} free"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return Finding(name, "wrong", f"{place} cannot be written: {error.strerror}; {free}", fix)
    to_be_made = "" if place == out else f", to be made in {place}"
    return Finding(name, "ok", f"{out}{to_be_made}: writable, {free}")


# Services, without a look at the network.


def check_hf_cache(_: Inspection) -> Finding:
    """Check the folder in which models and data sets from the hub are kept."""
    variables = os.environ
    home = variables.get("XDG_CACHE_HOME", "~/.cache")
    root = variables.get("HF_HOME", f"{home}/huggingface")
    folder = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE")
    place = Path(os.path.expandvars(folder or f"{root}/hub")).expanduser()
    offline = variables.get("HF_HUB_OFFLINE", "").lower() in TRUE
    note = "; HF_HUB_OFFLINE is set: nothing is fetched" if offline else ""
    if not place.exists():
        near = place.absolute()
        while not near.exists():
            near = near.parent
        if not os.access(near, os.W_OK):
            detail = f"{place} is not there, and {near} is not writable{note}"
            return Finding("HF cache", "wrong", detail, "export HF_HOME=DIR  # a writable folder")
        return Finding("HF cache", "missing", f"{place} is made at first use{note}")
    if not os.access(place, os.W_OK) and not offline:
        detail = f"{place} is not writable"
        fix = "export HF_HOME=DIR  # a writable folder; or HF_HUB_OFFLINE=1, to read this one"
        return Finding("HF cache", "wrong", detail, fix)
    return Finding("HF cache", "ok", f"{place}{note}")


def check_wandb_login(_: Inspection) -> Finding:
    """Check that there is a key, not that it is a good one."""
    name = "W&B login"
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode in ("offline", "disabled") or os.environ.get("WANDB_DISABLED", "").lower() in TRUE:
        return Finding(name, "ok", f"none is needed: WANDB_MODE={mode or 'disabled'}")
    if os.environ.get("WANDB_API_KEY"):
        return Finding(name, "ok", "a key in WANDB_API_KEY")
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    named = os.environ.get("NETRC")
    for file in (Path(named),) if named else (Path("~/.netrc"), Path("~/_netrc")):
        try:
            login = netrc.netrc(str(file.expanduser())).hosts.get(host)
        except FileNotFoundError:
            continue
        except (OSError, netrc.NetrcParseError) as error:
            reason = error.msg if isinstance(error, netrc.NetrcParseError) else error.strerror
            return Finding(name, "wrong", f"{file}: {reason}", "wandb login")
        if login:
            return Finding(name, "ok", f"a key for {host} in {file}")
    fix = "wandb login  # or wandb.mode=offline, and wandb sync later"
    return Finding(name, "missing", f"no key for {host}; needed for wandb.mode=online", fix)


def check_slurm(machine: Inspection) -> Finding:
    """Check that jobs can be given to Slurm; on one host nobody needs it."""
    present = [name for name in SLURM_COMMANDS if shutil.which(name)]
    if not present:
        return Finding("Slurm", "missing", "not here; not needed for jobs on one host")
    if len(present) < len(SLURM_COMMANDS):
        absent = ", ".join(sorted(set(SLURM_COMMANDS) - set(present)))
        detail = f"{', '.join(present)} in PATH, and not {absent}"
        return Finding("Slurm", "wrong", detail, "export PATH=...  # with all of Slurm's commands")
    ping, about = machine.results["scontrol"], machine.results["sinfo"]
    if "configuration source" in ping.err:
        detail = "its commands are here, and no configuration; not needed for jobs on one host"
        return Finding("Slurm", "missing", detail, "export SLURM_CONF=...  # if there is a cluster")
    number = re.search(r"slurm\S* ([\d.]+)", about.out)
    detail = number[1] if number else "of unknown version"
    if ping.status != 0 or " UP" not in ping.out:
        detail += f"; slurmctld does not answer: {ping.failure}"
        return Finding("Slurm", "wrong", detail, "scontrol ping  # must say UP; ask who runs it")
    return Finding("Slurm", "ok", f"{detail}, slurmctld answers{_slurm_job()}")


def _slurm_job() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return ""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "nodes that it does not say")
    count = os.environ.get("SLURM_JOB_NUM_NODES", "?")
    return f"; inside job {job} on {nodes} ({count} nodes)"


def _limit(count: int) -> str:
    return "unlimited" if count == resource.RLIM_INFINITY else str(count)


def _below(count: int, least: int) -> bool:
    return count != resource.RLIM_INFINITY and count < least


def _cgroup_memory() -> int | None:
    """Return the least limit of the control groups that this process is in."""
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
