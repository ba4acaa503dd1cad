"""`megaprune doctor`: what a job will meet on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megaprune.doctor.findings import Finding
    from megaprune.doctor.inspection import Inspection


def add_parser(commands: Any) -> None:
    """Add `doctor`."""
    command = commands.add_parser(
        "doctor",
        help="say what a job will meet on this machine, and how to fix it",
        description="Say what a job will meet on this machine: a line for each thing (ok, missing, "
        "wrong), and the command that fixes it. Packages are imported in processes of their own. "
        "The network is not used. The exit status is 1 if something that is required is missing, "
        "or anything is wrong.",
    )
    command.add_argument(
        "--out", default=".", metavar="DIR", help="where a job would write (default: here)"
    )
    command.add_argument(
        "--packages",
        action="store_true",
        help="only what is installed, and the GPUs: not limits, folders, logins and Slurm",
    )
    command.add_argument("--quick", action="store_true", help="import no packages")
    command.add_argument("--json", action="store_true", help="print findings and summary as JSON")
    command.set_defaults(run=run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Run every check, and print the findings."""
    from megaprune.doctor.findings import print_findings, summarize
    from megaprune.doctor.inspection import inspect_machine

    if not options.quick and sys.stderr.isatty():
        print("importing torch, Megatron-core and vLLM: half a minute ...", file=sys.stderr)
    machine = inspect_machine(options.quick, Path(options.out))
    findings = check_packages(machine) if options.packages else check(machine)
    if options.json:
        report = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"findings": report, "summary": summarize(findings)}))
    else:
        print_findings(findings)
    return int(any(finding.stops for finding in findings))


def check(machine: Inspection) -> list[Finding]:
    """Run every check, in the order of the report."""
    return check_packages(machine) + check_surroundings(machine)


def check_packages(machine: Inspection) -> list[Finding]:
    """Check the GPUs, and the engines and packages for them."""
    from megaprune.doctor import host, packages, stack

    return [
        host.check_python(machine),
        stack.check_gpus(machine),
        stack.check_driver(machine),
        stack.check_nccl(machine),
        stack.check_torch(machine),
        stack.check_megatron(machine),
        stack.check_transformer_engine(machine),
        stack.check_apex(machine),
        stack.check_vllm(machine),
        stack.check_beside(machine),
        *(packages.check_package(package, machine) for package in packages.PACKAGES),
        packages.check_nemo_run(machine),
    ]


def check_surroundings(machine: Inspection) -> list[Finding]:
    """Check the host, its limits, folders and services."""
    from megaprune.doctor import host

    return [
        host.check_host(machine),
        host.check_shared_memory(machine),
        host.check_open_files(machine),
        host.check_locked_memory(machine),
        host.check_processes(machine),
        host.check_out(machine),
        host.check_hf_cache(machine),
        host.check_wandb_login(machine),
        host.check_slurm(machine),
    ]
