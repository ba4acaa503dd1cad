"""Where the seconds of a demo step go, and TRL's GRPOTrainer on the same work beside it.

    python benchmarks/step.py [--steps 5] [--rounds 2] [--trl-python PATH] [key=value ...]

Ours: steps of `recipe=tiny_overthinker`, with fields such as rollout.max_response_length=400, on 1 and 2
processes of one thread. "in engines" is what passes inside vLLM's `engine.step()` and inside
Megatron-core's forward and backward passes; "outside" is the rest: asking and answering, grades
that are waited for, packing, the optimizer, the sync, files. A checkpoint is begun after the last step; its cost is divided among
as many steps as the recipe has between two.

TRL: PATH is the python of an environment with trl (and torch, transformers, datasets), which needs
no megaprune. The same model, prompts in the same order, samples of a prompt, limit, temperature,
advantages, loss and optimizer in fp32, with Hugging Face's generate, which is what TRL has on a CPU.
Its time is that of whole steps, on 1 process of 1 and of 2 threads, and on 2 processes.

All take turns, each in processes of its own whose first step is left out; medians of the steps of
all rounds, and, since steps change as a model learns, their mean; the best of ours is compared with
the best of TRL by either. Mean reward and length tell that the work was the same; "CPU s" is what the first process computed, whoever else used the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

PHASES = {"generate": "vllm", "grade": None, "update": "passes", "sync": None, "log": None, "save": None}  # fmt: skip
SETTINGS = [("ours", 1, 1), ("ours", 2, 1), ("trl", 1, 1), ("trl", 1, 2), ("trl", 2, 1)]
"""Whose, processes, threads of each."""
Lines = list[dict[str, float]]


def ours(steps: int, fields: list[str]) -> None:
    """Run on this process; prints a JSON line of each step, and one of a checkpoint."""
    from megaprune.distributed import world
    from megaprune.distributed.objects import broadcast_from_rank0
    from megaprune.distributed.process import prepare_process

    def job() -> None:
        with tempfile.TemporaryDirectory() as own:
            folder = broadcast_from_rank0(own)
            our_steps(recipe(f"out={folder}/run", f"steps={steps + 2}", *fields))

    prepare_process()
    sys.exit(world.run(job))


def recipe(*fields: str) -> Any:
    from megaprune.config.run import read_config

    return read_config(["recipe=tiny_overthinker", "validation.every=0", *fields])


def our_steps(config: Any) -> None:
    import torch.distributed as dist

    from megaprune.actor import actor
    from megaprune.trainer.loop import TrainingRun

    spent = {"vllm": 0.0, "passes": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    schedule = actor.get_forward_backward_func  # type: ignore[attr-defined]
    actor.get_forward_backward_func = lambda: timed("passes", schedule())  # type: ignore[attr-defined]
    every = config.checkpoint.every
    none = replace(config.checkpoint, every=config.steps)  # none among the steps
    run = TrainingRun(replace(config, checkpoint=none))
    assert run.engines.generator is not None
    engine = run.engines.generator._llm.llm_engine
    engine.step = timed("vllm", engine.step)
    for _ in range(config.steps - 1):
        spent.update(vllm=0.0, passes=0.0)
        dist.barrier()
        start, computed = time.perf_counter(), time.process_time()
        run.take_step()
        total, computed = time.perf_counter() - start, time.process_time() - computed
        if dist.get_rank():
            continue
        line = json.loads((Path(config.out) / "metrics.jsonl").read_text().splitlines()[-1])
        # The clock is read and set to 0 in the midst of logging: what comes then is still in it.
        phases = {phase: line.get(f"seconds/{phase}", 0.0) for phase in PHASES}
        phases |= {phase: run.clock._seconds[phase] for phase in ("log", "save")}
        said = {"reward": line["reward"], "length": line["response_length/mean"]}
        print(json.dumps({"step": total, "cpu": computed, **phases, **spent, **said}), flush=True)
    start = time.perf_counter()
    run.checkpoints.save(run.step, run.engines.actor, run.source.state_dict())
    begun = time.perf_counter()
    run.checkpoints.finish()
    written = time.perf_counter() - begun
    if dist.get_rank() == 0:
        print(json.dumps({"begun": begun - start, "written": written, "every": every}), flush=True)
    run.close()
    dist.barrier()


def trl(steps: int, work: Path, batch: int) -> None:
    """Run in TRL's environment; prints a JSON line of each step. Imports nothing of megaprune."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    given = json.loads(work.read_text())
    rows, n = given["rows"], given["n"]
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    assert all(tokenizer(row["prompt"])["input_ids"] == row["tokens"] for row in rows)
    data = Dataset.from_list([{k: row[k] for k in ("prompt", "gold")} for row in rows])

    def reward(completions: list[str], gold: list[str], **_: Any) -> list[float]:
        boxes = [re.findall(r"\\boxed\{([^{}]*)\}", text) for text in completions]
        return [float(b[-1:] == [g]) for b, g in zip(boxes, gold, strict=True)]

    class Clock(TrainerCallback):
        """Prints what a step took, from the end of the one before to its own."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start, self.computed = time.perf_counter(), time.process_time()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "reward" not in logs or int(os.environ["RANK"]):
                return
            now, computed = time.perf_counter(), time.process_time()
            line = {"step": now - self.start, "cpu": computed - self.computed}
            line |= {"reward": logs["reward"], "length": logs["completions/mean_length"]}
            print(json.dumps(line), flush=True)
            self.start, self.computed = now, computed

    with tempfile.TemporaryDirectory() as folder:
        GRPOTrainer(
            model=given["model"],
            reward_funcs=reward,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Clock()],
            args=GRPOConfig(
                output_dir=folder,
                max_steps=steps,
                # One optimizer step on all samples, which are generated at once.
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=given["prompts"]
                * n
                // batch
                // int(os.environ["WORLD_SIZE"]),
                num_generations=n,
                max_completion_length=given["limit"],
                shuffle_dataset=False,
                temperature=given["temperature"],
                beta=0.0,
                scale_rewards="none",  # group_mean
                loss_type="dapo",  # the mean of all tokens of the batch
                learning_rate=given["lr"],
                adam_beta1=given["betas"][0],
                adam_beta2=given["betas"][1],
                max_grad_norm=given["clip_grad"],
                lr_scheduler_type="constant",
                use_cpu=True,
                ddp_backend="gloo",
                bf16=False,
                gradient_checkpointing=False,  # on by default; it would only cost TRL time here
                model_init_kwargs={"dtype": "float32"},
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        ).train()


def work_for_trl(steps: int, path: Path, fields: list[str]) -> None:
    """What TRL is to do: the prompts of our first steps, in our order, and the numbers."""
    from megaprune.algorithms import Algorithm
    from megaprune.data import batch, load_tokenizer, read_problems

    config = recipe("out=unused", *fields)
    problems = read_problems(
        Path(config.data.train), load_tokenizer(Path(config.model)), config.data.max_prompt_length
    ).problems
    assert config.algorithm == Algorithm.from_spec({"advantage": "group_mean"})
    assert config.optimizer.weight_decay == config.optimizer.warmup_steps == 0
    taken = [
        problems[i]
        for step in range(steps)
        for i in batch(len(problems), config.data.train_batch_size, step, config.seed)
    ]
    given = {
        "model": config.model,
        "prompts": config.data.train_batch_size,
        "n": config.rollout.n,
        "limit": config.rollout.max_response_length,
        "temperature": config.rollout.temperature,
        "lr": config.optimizer.lr,
        "betas": (config.optimizer.beta1, config.optimizer.beta2),
        "clip_grad": config.optimizer.clip_grad,
        "rows": [{"prompt": p.prompt, "tokens": p.tokens, "gold": p.gold} for p in taken],
    }
    path.write_text(json.dumps(given))


def lines_of(python: str, processes: int, threads: int, *arguments: str) -> Lines:
    """The JSON lines of one side's steps, without the first."""
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(threads)}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [python, *torchrun, __file__, *arguments],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    return lines[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each round")
    parser.add_argument("--rounds", type=int, default=2, help="ours and TRL, in turns")
    parser.add_argument("--trl-python", help="of an environment with TRL")
    parser.add_argument("--trl-batch", type=int, default=64, help="samples of TRL's micro-batch")
    parser.add_argument("fields", nargs="*", metavar="key=value", help="of the recipe")
    parser.add_argument("--as-ours", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--as-trl", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_ours:
        ours(options.steps, options.fields)
    if options.as_trl:
        return trl(options.steps + 1, options.as_trl, options.trl_batch)
    found: dict[tuple[str, int, int], Lines] = {}
    loads = []
    many = ["--steps", str(options.steps), "--trl-batch", str(options.trl_batch), *options.fields]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.json"
        work_for_trl(options.steps + 1, work, options.fields)
        for _ in range(options.rounds):
            for side, processes, threads in SETTINGS:
                as_side = ["--as-ours"] if side == "ours" else ["--as-trl", str(work)]
                python = sys.executable if side == "ours" else options.trl_python
                if python:
                    loads.append(os.getloadavg()[0])
                    lines = lines_of(python, processes, threads, *as_side, *many)
                    found.setdefault((side, processes, threads), []).extend(lines)
    show(found, loads, recipe("out=unused", *options.fields))


def show(found: dict[tuple[str, int, int], Lines], loads: list[float], config: Any) -> None:
    samples = config.data.train_batch_size * config.rollout.n
    print(
        f"{config.data.train_batch_size} prompts x {config.rollout.n} samples of at most "
        f"{config.rollout.max_response_length} tokens; medians of the steps; {os.cpu_count()} cores, load when a "
        f"run began {', '.join(f'{load:.1f}' for load in loads)}"
    )
    for (side, processes, _), lines in found.items():
        if side == "ours":
            our_phases(processes, lines)
    print("trainer                          s/step    mean   CPU s   samples/s   reward   tokens")
    best: dict[str, tuple[float, float]] = {}
    for (side, processes, threads), lines in found.items():
        steps = [line for line in lines if "step" in line]
        seconds, cpu, reward, length = (
            middle(line[key] for line in steps) for key in ("step", "cpu", "reward", "length")
        )
        mean = statistics.fmean(line["step"] for line in steps)
        so_far = best.get(side, (seconds, mean))
        best[side] = (min(so_far[0], seconds), min(so_far[1], mean))
        name = "megaprune" if side == "ours" else "TRL"
        print(
            f"{name:9} {processes} process(es), {threads} thread(s) {seconds:6.2f} {mean:7.2f} "
            f"{cpu:7.2f} {samples / seconds:11.1f} {reward:8.3f} {length:8.1f}"
        )
    if "trl" in best:
        median, mean = (trl / mine for trl, mine in zip(best["trl"], best["ours"], strict=True))
        print(f"megaprune over TRL, best of each (goal: 3): {median:.2f}; by the mean {mean:.2f}")
    else:
        print("TRL was not measured: it takes --trl-python")


def our_phases(processes: int, lines: Lines) -> None:
    steps = [line for line in lines if "step" in line]
    saves = [line for line in lines if "begun" in line]
    for line in steps:
        save = middle(one["begun"] / one["every"] for one in saves)
        line["save"] += save
        line["step"] += save
    whole = middle(line["step"] for line in steps)
    print(f"{f'{processes} process(es)':17}   seconds   share   in engines   outside   share")
    for phase, engine in PHASES.items():
        seconds = middle(line[phase] for line in steps)
        inside = middle(line[engine] for line in steps) if engine else 0.0
        row(phase, seconds, whole, inside, middle(outside(line, phase) for line in steps))
    inside = middle(line["vllm"] + line["passes"] for line in steps)
    share = middle(1 - (line["vllm"] + line["passes"]) / line["step"] for line in steps)
    row("step (goal: 10 %)", whole, whole, inside, share * whole)
    print(
        f"A checkpoint takes {middle(one['begun'] for one in saves):.3f} s to begin, every "
        f"{saves[0]['every']} steps (its share is in save), and "
        f"{middle(one['written'] for one in saves):.3f} s to write beside the steps."
    )


def row(name: str, seconds: float, whole: float, inside: float, left: float) -> None:
    print(
        f"{name:17} {seconds:9.3f} {seconds / whole:7.1%} {inside:12.3f} {left:9.3f} {left / whole:7.1%}"
    )


def outside(line: dict[str, float], phase: str) -> float:
    engine = PHASES[phase]
    return line[phase] - (line[engine] if engine else 0.0)


def middle(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
