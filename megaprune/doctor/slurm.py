"""Slurm: its commands, whether its controller answers, and the job that this may be."""

from __future__ import annotations

import os
import re
import shutil

from megaprune.doctor.finding import Finding
from megaprune.doctor.machine import Machine

COMMANDS = ("sinfo", "sbatch", "srun", "scontrol")


def check_slurm(machine: Machine) -> Finding:
    """Whether jobs can be given to it; on one host nobody needs it."""
    there = [name for name in COMMANDS if shutil.which(name)]
    if not there:
        return Finding("Slurm", "missing", "not here; not needed for jobs on one host")
    if len(there) < len(COMMANDS):
        absent = ", ".join(sorted(set(COMMANDS) - set(there)))
        found = f"{', '.join(there)} in PATH, and not {absent}"
        return Finding("Slurm", "wrong", found, "export PATH=...  # with all of Slurm's commands")
    ping, about = machine.outcomes["scontrol"], machine.outcomes["sinfo"]
    if "configuration source" in ping.err:
        found = "its commands are here, and no configuration; not needed for jobs on one host"
        return Finding("Slurm", "missing", found, "export SLURM_CONF=...  # if there is a cluster")
    number = re.search(r"slurm\S* ([\d.]+)", about.out)
    found = number[1] if number else "of unknown version"
    if ping.status != 0 or " UP" not in ping.out:
        found += f"; slurmctld does not answer: {ping.failure}"
        return Finding("Slurm", "wrong", found, "scontrol ping  # must say UP; ask who runs it")
    return Finding("Slurm", "ok", f"{found}, slurmctld answers{_job()}")


def _job() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return ""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "nodes that it does not say")
    count = os.environ.get("SLURM_JOB_NUM_NODES", "?")
    return f"; inside job {job} on {nodes} ({count} nodes)"
