"""Grading a run's answers beside generating them.

    python benchmarks/grading.py RUN [--answers 2048] [--workers 1]

Takes answers of the run's first steps as they were kept, grades them again with new workers, and
prints the seconds beside those that the run took to generate them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from megaprune.grading import Pool


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--answers", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    spent: dict[int, float] = {}
    for line in (options.run / "metrics.jsonl").read_text().splitlines():
        found = json.loads(line)
        spent[found["step"]] = found.get("seconds/generate", spent.get(found["step"], 0.0))
    rows: list[dict[str, Any]] = []
    generating = 0.0
    for path in sorted((options.run / "samples").glob("*.parquet")):
        if len(rows) >= options.answers:
            break
        some = pq.read_table(path).to_pylist()
        rows += some
        generating += spent[some[0]["step"]]
    with Pool({}, workers=options.workers) as pool:
        start = time.perf_counter()
        for number, row in enumerate(rows):
            finished = row["finish"] == "stop"
            pool.submit(number, row["data_source"], row["gold"], row["response"], finished)
        verdicts = pool.results()
        grading = time.perf_counter() - start
    same = sum(verdicts[i].match == row["match"] for i, row in enumerate(rows))
    print(
        f"{len(rows)} answers: generated in {generating:.2f} s, graded in {grading:.2f} s by "
        f"{options.workers} worker(s); {same} verdicts are the run's"
    )


if __name__ == "__main__":
    main()
