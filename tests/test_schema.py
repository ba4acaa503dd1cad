"""One schema: what is written, what is read, and the page about it."""

import subprocess
import sys
from pathlib import Path

import pytest

from megaprune import schema
from megaprune.schema_page import metrics_page

ROOT = Path(__file__).parents[1]


def test_the_page_is_made_from_the_declarations():
    text = (ROOT / "docs/metrics.md").read_text()
    assert text == metrics_page(), "make it again: python -m megaprune.schema_page"


def test_it_imports_nothing_heavy():
    code = "import sys, megaprune.schema; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert not modules & {"torch", "pyarrow", "numpy", "vllm", "megatron", "pydantic", "omegaconf"}


def test_each_name_is_declared_once():
    for names in (
        [metric.name for metric in schema.METRICS],
        [column.name for column in schema.SAMPLE_COLUMNS],
    ):
        assert len(set(names)) == len(names)


def test_columns_have_the_types_that_they_declare():
    arrow = schema.samples_schema()
    for column in schema.SAMPLE_COLUMNS:
        written = str(arrow.field(column.name).type).replace("item: ", "").replace("element: ", "")
        assert written == column.type
    names = set(arrow.names)
    assert names >= {*schema.OUTCOME_COLUMNS, *schema.TEXT_COLUMNS}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("length/mean", "response_length/mean"),
        ("validation/length/mean", "validation/response_length/mean"),
        ("validation/cut_off", "validation/truncated"),
        ("clipped", "clip_ratio"),
        ("reward", "reward"),
        ("response_length/mean", "response_length/mean"),
        ("seconds/update", "seconds/update"),
        ("my/own", "my/own"),
    ],
)
def test_older_names_are_read(old, new):
    assert schema.metric_name(old) == new


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("reward", "reward"),
        ("reward/truncate", "reward/<name>"),
        ("reward/truncate/weighted", "reward/<name>/weighted"),
        ("seconds/step", "seconds/step"),
        ("seconds/generate", "seconds/<phase>"),
        ("validation/response_length/p95", "validation/<metric>"),
        ("my/own", None),
    ],
)
def test_a_name_leads_to_its_declaration(name, declared):
    metric = schema.metric_of(name)
    assert (metric and metric.name) == declared


def test_files_of_steps_are_named_and_read_alike():
    assert schema.step_of_file(schema.step_file(20)) == 20
    assert schema.step_of_file("step_000020.parquet.partial") is None
    assert schema.step_of_file("part_0_000001.parquet") is None
