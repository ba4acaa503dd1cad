"""`megaprune doctor`: what a job will find on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megaprune.doctor.finding import Finding
    from megaprune.doctor.machine import Machine


def add_parser(commands: Any) -> None:
    """Add `doctor`."""
    command = commands.add_parser(
        "doctor",
        help="say what a job will find on this machine, and how to mend it",
        description="Say what a job will find on this machine: a line for each thing (ok, missing, "
        "wrong), and the command that mends it. Packages are imported in processes of their own. "
        "The network is not used. The exit status is 1 if something that is required is missing, "
        "or anything is wrong.",
    )
    command.add_argument(
        "--out", default=".", metavar="DIR", help="where a job would write (default: here)"
    )
    command.add_argument("--quick", action="store_true", help="import no packages")
    command.add_argument("--json", action="store_true", help="print findings and summary as JSON")
    command.set_defaults(run=run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Look at everything, print what was found."""
    from megaprune.doctor.machine import look
    from megaprune.doctor.show import print_findings, summary

    if not options.quick and sys.stderr.isatty():
        print("importing torch, Megatron-core and vLLM: half a minute ...", file=sys.stderr)
    findings = check(look(options.quick, Path(options.out)))
    if options.json:
        report = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"findings": report, "summary": summary(findings)}, ensure_ascii=False))
    else:
        print_findings(findings)
    return int(any(finding.stops for finding in findings))


def check(machine: Machine) -> list[Finding]:
    """Everything, in the order of the report."""
    from megaprune.doctor import engines, gpus, host, packages, services, slurm

    return [
        host.check_python(machine),
        host.check_host(machine),
        gpus.check_gpus(machine),
        gpus.check_driver(machine),
        gpus.check_nccl(machine),
        engines.check_torch(machine),
        engines.check_megatron(machine),
        engines.check_transformer_engine(machine),
        engines.check_apex(machine),
        engines.check_vllm(machine),
        engines.check_beside(machine),
        *(packages.check_package(each, machine) for each in packages.PACKAGES),
        packages.check_nemo_run(machine),
        host.check_shared_memory(machine),
        host.check_open_files(machine),
        host.check_locked_memory(machine),
        host.check_processes(machine),
        host.check_out(machine),
        services.check_hf_cache(machine),
        services.check_wandb_login(machine),
        slurm.check_slurm(machine),
    ]
