"""Folders of evaluations and prunings, written as the commands write them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from run_folders import CONFIG, rows_of, training_line, write_lines, write_rows

from megaprune.evaluation.summary import against, averages, summarise
from megaprune.schema import samples_schema

SETTINGS = {
    "n": 2,
    "max_response_length": 1000,
    "temperature": 0.6,
    "top_p": 0.95,
    "seed": 0,
    "out": "x",
}


def sample(name, problem, number, length, right, exit_at=None, **other):
    """One response as an evaluation keeps it."""
    wrong = "cut off" if other.get("finish") == "length" else "wrong"
    made = {
        "set": name,
        "problem": problem,
        "data_source": name,
        "prompt": f"What is {problem}?",
        "number": number,
        "exit_at": exit_at,
        "response": f"Sample {number} about {problem}, {length} tokens.",
        "gold": "4",
        "length": length,
        "injected": 0 if exit_at is None else 3,
        "finish": "stop",
        "match": right,
        "extracted": "4" if right else "5",
        "why": "right" if right else wrong,
        "detail": "",
        "tokens": [3, 4],
    }
    return made | other


def samples_of(name, answers, exit_at=None):
    """Of (problem, number): (length, right)."""
    return [sample(name, *key, *value, exit_at=exit_at) for key, value in answers.items()]


def write_evaluation(
    folder, rows, budgets=(400, 800), baseline=None, config=CONFIG, frontier=None, **settings
):
    """Of all sets' rows, in two files for each set as two engines would; with the summary."""
    sets = {}
    for name in dict.fromkeys(one["set"] for one in rows):
        some = [one for one in rows if one["set"] == name]
        for engine in (0, 1):
            path = folder / f"samples/{name}/part_{engine}_000001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(some[engine::2], samples_schema()), path)
        sets[name] = summarise(some, budgets, frontier, SETTINGS["max_response_length"])
        before = baseline and [*(baseline / f"samples/{name}").glob("*.parquet")]
        if before and (change := against(some, [r for f in before for r in read(f)])):
            sets[name]["against"] = change
    said = {
        "model": f"models/{folder.name}",
        "settings": SETTINGS | settings,
        "baseline": baseline and str(baseline),
        "sets": sets,
        "average": averages(sets),
    }
    (folder / "summary.json").write_text(json.dumps(said, indent=2))
    (folder / "config.yaml").write_text(config)
    return folder


def read(path):
    return pq.read_table(path, partitioning=None).to_pylist()


def change_summary(folder, change):
    """Have `change` alter what summary.json says."""
    path = folder / "summary.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def write_round(folder, number, limit, validations, chosen, steps=4, accuracy=0.5, length=100.0):
    """A round's run, and what rounds.json says of it.

    Args:
        validations: rows by step.
    """
    name = f"round_{number}_limit_{limit}"
    run = folder / name
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG.replace("length: 1000", f"length: {limit}"))
    lines = [training_line(step) for step in range(1, steps + 1)]
    for step, rows in validations.items():
        write_rows(run / f"validation/step_{step:06}.parquet", rows)
        right = float(np.mean([one["match"] for one in rows]))
        mean = float(np.mean([one["length"] for one in rows]))
        lines.append(
            {"step": step, "validation/accuracy": right, "validation/response_length/mean": mean}
        )
        if step == chosen:
            accuracy, length = right, mean
    write_lines(run / "metrics.jsonl", lines)
    return {
        "round": number,
        "limit": limit,
        "folder": name,
        "step": chosen,
        "accuracy": accuracy,
        "length": length,
        "model": f"{name}/chosen",
    }


def write_rounds(folder, limits, base, rounds, stopped=None, final=None):
    """rounds.json and config.yaml of a pruning."""
    said = {"limits": limits, "base": base, "rounds": rounds, "stopped": stopped, "final": final}
    (folder / "rounds.json").write_text(json.dumps(said, indent=2))
    (folder / "config.yaml").write_text(CONFIG + f"limits: {limits}\n")


def write_pruning(folder, start, ends, stopped=None, final=None):
    """Rounds that end with these answers, of (problem, number): (length, right)."""
    limits = [800, 400, 200][: len(ends)]
    rounds, before = [], rows_of(0, start)
    for number, (limit, after) in enumerate(zip(limits, ends, strict=True), start=1):
        validations = {0: before, 4: rows_of(4, after)}
        rounds.append(write_round(folder, number, limit, validations, chosen=4))
        before = rows_of(0, after)
    base = {"accuracy": 0.625, "length": 500.0}
    write_rounds(folder, limits, base, rounds, stopped, final or (None if stopped else len(ends)))
    return folder


def write_long_evaluations(folder, sets=("aime24", "math500"), problems=(30, 120), n=16):
    """Four models as real ones: pruning makes them shorter and costs little or much."""
    rng = np.random.default_rng(11)
    models = {
        "base": (1.0, 0.0),
        "round_1": (0.72, 0.05),
        "round_2": (0.5, 0.0),
        "hasty": (0.3, -1),
    }
    ease = {name: rng.normal(size=count) for name, count in zip(sets, problems, strict=True)}
    paths = []
    for model, (short, better) in models.items():
        rows = []
        for name in sets:
            hard = 1.5 if name == sets[0] else 0.0
            for index, easy in enumerate(ease[name]):
                for number in range(n):
                    long = np.exp(8.6 + 0.3 * hard - 0.4 * easy + 0.35 * rng.normal())
                    length = int(min(long * short, 32000))
                    chance = 1 / (1 + np.exp(hard - 1.2 - 1.3 * easy - better + length / 20000))
                    right = bool(length < 32000 and rng.random() < chance)
                    found = "42" if right else str(40 + int(rng.integers(0, 2)))
                    text = f"<think>\nOkay, find {index}.\n" + "Wait, let me check. " * (
                        length // 99
                    )
                    problem = f"{name} {index:03}"
                    made = {
                        "response": f"{text}\n</think>\n\nIt is $\\boxed{{{found}}}$.",
                        "prompt": f"<|User|>Find the {index}th of the first odd primes.<|Assistant|>",
                        "gold": "42",
                        "extracted": found,
                        "finish": "length" if length == 32000 else "stop",
                    }
                    rows.append(sample(name, problem, number, length, right, **made))
                    if model == "round_2" and name == sets[0]:
                        for exit_at in (2000, 4000, 8000):
                            used = min(length, exit_at + 20)
                            early = bool(right and (length <= exit_at or rng.random() < 0.6))
                            rows.append(sample(name, problem, number, used, early, exit_at=exit_at))
        budgets = (500, 1000, 2000, 4000, 8000, 16000)
        settings = {"max_response_length": 32000, "n": None}
        base = paths[0] if paths else None
        paths.append(
            write_evaluation(folder / model, rows, budgets=budgets, baseline=base, **settings)
        )
    return paths
