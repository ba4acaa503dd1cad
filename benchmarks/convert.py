"""Converters against `cp`: wall time and peak memory, on QwQ-32B's real layer shapes.

    python benchmarks/convert.py --dir SCRATCH [--layers 2 4 8] [--runs 3]

For each number of layers it makes a random bf16 model (hidden 5120, ffn 27648, vocabulary 152064;
4 layers are 7 GB), then takes turns: each job runs right after a `cp` of its source, flushed to the
disk as a conversion is, and is compared with that one; medians over the runs, and the best time over
the best `cp`, since noise only ever adds. "verified" is what the command does unless told
--no-verify. Each job is a process of its own. Memory is the peak resident
set (VmHWM, mapped file pages included) less what the process had when everything was imported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

JOB = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from convert import copy
from megaprune.weights import convert, verify
job, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
quiet = lambda *_: lambda *_: None
def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
# Twice: the second copy, like the job after it, writes to pages that were just freed. Where a
# virtual machine gives free memory back to its host, the first write to a page is much slower.
for _ in range(2):
    cp = copy(source, out.parent / "copy")
open("/proc/self/clear_refs", "w").write("5")
before, start = resident("VmRSS"), time.perf_counter()
if job == "verify":
    assert not verify.compare(
        verify.open_folder(source), verify.open_folder(out), quiet
    ).differences
elif job == "to-megatron":
    convert.hf_to_megatron(source, out, quiet, check=False)
else:
    convert.megatron_to_hf(source, out, quiet, check="verified" in job)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "cp": cp, "peak": resident("VmHWM") - before}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder, 4 x the model")
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(
        "layers    GB  job                  seconds   GB/s  cp, seconds  time / cp  best / best  peak MiB"
    )
    for layers in options.layers:
        folder = options.dir / f"layers-{layers}"
        nbytes = make_model(folder / "hf", layers)
        seen: dict[str, list[dict[str, float]]] = {job: [] for job in JOBS}
        for _ in range(options.runs):
            for job, (source, out) in JOBS.items():
                seen[job].append(run(job, folder / source, folder / out))
            for out in ("megatron", "back"):
                shutil.rmtree(folder / out)
        for job, results in seen.items():
            seconds, cp, ratio = (
                statistics.median(values)
                for values in (
                    [r["seconds"] for r in results],
                    [r["cp"] for r in results],
                    [r["seconds"] / r["cp"] for r in results],
                )
            )
            best = min(r["seconds"] for r in results) / min(r["cp"] for r in results)
            peak = max(r["peak"] for r in results) / 2**20
            print(
                f"{layers:6} {nbytes / 1e9:5.1f}  {job:19} {seconds:8.2f} "
                f"{nbytes / 1e9 / seconds:6.2f} {cp:12.2f} {ratio:10.2f} {best:12.2f} {peak:9.0f}",
                flush=True,
            )
        shutil.rmtree(folder)


JOBS = {  # source and output of each
    "to-megatron": ("hf", "megatron"),
    "to-hf": ("megatron", "back"),
    "verify": ("hf", "back"),
    "to-hf, verified": ("megatron", "back"),
}


def run(job: str, source: Path, out: Path) -> dict[str, float]:
    if job != "verify" and out.exists():
        shutil.rmtree(out)
    done = subprocess.run(
        [sys.executable, "-c", JOB, job, source, out, Path(__file__).parent],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def copy(source: Path, out: Path) -> float:
    """Seconds to copy a folder and flush it; the copy is removed again."""
    os.sync()
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, out], check=True)
    for path in out.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return seconds


def make_model(folder: Path, layers: int) -> int:
    """A random model, written by the safetensors library a layer at a time; returns its bytes."""
    import torch
    from safetensors.torch import save_file

    from megaprune.weights.model import Model

    config = {**CONFIG, "num_hidden_layers": layers}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in Model.from_config(config).tensors().items():
        part = name.split(".")[2] if ".layers." in name else name
        groups.setdefault(part, {})[name] = shape
    weight_map: dict[str, str] = {}
    total = 0
    generator = torch.Generator().manual_seed(0)
    for number, group in enumerate(groups.values()):
        file = f"model-{number + 1:05}-of-{len(groups):05}.safetensors"
        tensors = {
            # Random bits with the exponent's top bit cleared: finite numbers, quickly made.
            name: torch.randint(-(2**15), 2**14, shape, dtype=torch.int16, generator=generator)
            .bitwise_and_(~0x4000)
            .view(torch.bfloat16)
            for name, shape in group.items()
        }
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
        total += sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


if __name__ == "__main__":
    main()
