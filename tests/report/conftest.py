"""A run to report on."""

import pytest
from run_folders import (
    AFTER,
    BEFORE,
    CONFIG,
    CUT_BEFORE,
    rows_of,
    training_line,
    write_lines,
    write_rows,
)


@pytest.fixture
def run(tmp_path):
    """A run of 4 steps with a validation before and after."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    lines = [
        {"step": 0, "validation/accuracy": 0.625, "validation/response_length/mean": 500.0},
        *map(training_line, range(1, 5)),
        {"step": 4, "validation/accuracy": 0.75, "validation/response_length/mean": 300.0},
    ]
    write_lines(folder / "metrics.jsonl", lines)
    write_rows(folder / "validation/step_000000.parquet", rows_of(0, BEFORE, CUT_BEFORE))
    write_rows(folder / "validation/step_000004.parquet", rows_of(4, AFTER))
    for step in range(1, 5):
        answers = {(f"t{step}{key[0]}", key[1]): value for key, value in BEFORE.items()}
        write_rows(folder / f"samples/step_{step:06}.parquet", rows_of(step, answers))
    return folder
