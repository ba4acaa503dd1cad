"""When a run has done all that it was to do, as its folder says."""

import pytest

from megaprune import schema
from megaprune.config.run import Config, DataConfig
from megaprune.report import STEPS_META
from megaprune.trainer.checkpoint_files import finished
from megaprune.weights.files.digests import CheckpointRecord


@pytest.mark.parametrize(
    ("model", "saved", "page", "steps", "expected"),
    [
        (True, 4, f'{STEPS_META}4">', 4, True),
        (True, 4, f'{STEPS_META}4">', 3, True),
        (True, 4, f'{STEPS_META}2">', 4, False),  # written as it went, or before it was to go on
        (True, 4, "", 4, False),
        (True, 4, None, 4, False),
        (False, 4, f'{STEPS_META}4">', 4, False),
        (True, 2, f'{STEPS_META}4">', 4, False),
    ],
)
def test_a_run_is_done_when_its_last_page_is_there(tmp_path, model, saved, page, steps, expected):
    checkpoint = tmp_path / schema.CHECKPOINTS_FOLDER / f"iter_{saved:07}"
    checkpoint.mkdir(parents=True)
    CheckpointRecord(saved).write(checkpoint)
    if model:
        (tmp_path / schema.MODEL_FOLDER).mkdir()
    if page is not None:
        (tmp_path / schema.REPORT_FOLDER).mkdir()
        (tmp_path / schema.REPORT_FOLDER / schema.PAGE_FILE).write_text(f"<html>{page}</html>")
    config = Config(model="m", out=str(tmp_path), steps=steps, data=DataConfig(train="t"))
    assert finished(config) is expected
