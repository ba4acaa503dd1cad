"""Folders of studies, written as a study and its runs write them."""

import json

from run_folders import row, training_line, write_lines, write_rows

SHAPING = {"reward/wiped": 0.1, "reward/adjusted": 0.5, "reward/unshaped": 0.25, "tokens": 600.0}

# Of problem: lengths and verdicts of the start model. By its verdicts "a" is easy, "b" medium and
# "c" hard. Right: 1, 0.5 and 0, mean 50 %; tokens: 100, 200 and 300, mean 200.
START = {"a": ([90, 110], [1, 1]), "b": ([150, 250], [1, 0]), "c": ([300, 300], [0, 0])}


def answers(outcomes, step):
    """Rows of answers, as a run or an evaluation keeps them."""
    return [
        row(step, problem, number, length, bool(right))
        for problem, (lengths, verdicts) in outcomes.items()
        for number, (length, right) in enumerate(zip(lengths, verdicts, strict=True))
    ]


def write_start(study, outcomes):
    folder = study / "start"
    write_rows(folder / "samples" / "sums" / "part_0_000001.parquet", answers(outcomes, None))
    (folder / "summary.json").write_text("{}")


def write_run(study, name, outcomes, steps=2, **metrics):
    folder = study / "runs" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"steps: {steps}\nvalidation:\n  max_response_length: 400\n"
    )
    lines = [training_line(step, **SHAPING, **metrics) for step in range(1, steps + 1)]
    measured = {"validation/accuracy": 0.5, "validation/response_length/mean": 100.0}
    lines.append({"step": steps, "validation/seconds": 3.0, **measured})
    write_lines(folder / "metrics.jsonl", lines)
    write_rows(folder / "validation" / f"step_{steps:06}.parquet", answers(outcomes, steps))


def write_harmonizing(study, name, outcomes, rounds=2):
    """A harmonizing whose model has these answers; the runs of its rounds have others."""
    folder = study / "runs" / name
    for number in range(1, rounds + 1):
        write_run(folder / f"round_{number}", "train", START)
        (folder / f"round_{number}" / "runs" / "train").rename(folder / f"round_{number}" / "train")
    write_rows(folder / "after" / "samples" / "sums" / "part_0.parquet", answers(outcomes, None))
    (folder / "after" / "config.yaml").write_text("max_response_length: 400\n")
    (folder / "after" / "summary.json").write_text("{}")
    content = {"rounds": [{"round": number} for number in range(1, rounds + 1)]}
    (folder / "harmonize.json").write_text(json.dumps(content))


def write_listing(study, runs, budgets=(100, 200, 400)):
    """study.json; runs are (variant, seed)."""
    study.mkdir(parents=True, exist_ok=True)
    (study / "config.yaml").write_text("seeds:\n- 0\n")
    listed = [
        {
            "name": f"{variant}_seed_{seed}",
            "variant": variant,
            "seed": seed,
            "folder": f"runs/{variant}_seed_{seed}",
            "fields": {"algorithm.reward.name": variant},
        }
        for variant, seed in runs
    ]
    content = {"start": "start", "budgets": list(budgets), "runs": listed}
    (study / "study.json").write_text(json.dumps(content))
