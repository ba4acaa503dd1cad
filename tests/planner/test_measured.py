"""Figures that were measured, in a file, in place of what a plan assumes."""

import json

import pytest

from megaprune.cli.main import main


def planned(capsys, *words):
    """Status and the JSON."""
    status = main(["plan", *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_what_was_measured_takes_the_place_of_assumptions(tmp_path, capsys):
    file = tmp_path / "plan.json"
    file.write_text('{"mfu": 0.25, "overhead": 1.5, "decode_efficiency": 0.3, "gpu_memory": 79}')
    _, assumed = planned(capsys, "recipe=qwq_32b")
    status, measured = planned(capsys, "recipe=qwq_32b", "--measured", str(file), "--mfu", "0.4")
    assert status == 0
    before, after = (report["assumed"] for report in (assumed, measured))
    assert {name: after[name] for name in before if after[name] != before[name]} == {
        "mfu": 0.4, "overhead": 1.5, "decode_efficiency": 0.3, "gpu_memory": 79,
    }  # fmt: skip
    seconds = [report["rounds"][0]["seconds"]["generate"] for report in (assumed, measured)]
    assert seconds[1] > 1.3 * seconds[0]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "plan.json cannot be read: No such file"),
        ("[0.5]", "plan.json holds a list; expected a JSON object"),
        ('{"mfu": 0.5', "plan.json is not valid JSON"),
        ('{"mfus": 0.5}', "plan.json: mfus is no figure of a plan; did you mean mfu"),
        ('{"gpus": 8}', "plan.json: gpus is no figure of a plan; did you mean"),
        ('{"mfu": "0.5"}', "plan.json: mfu is '0.5'; expected a number"),
        ('{"mfu": true}', "plan.json: mfu is True; expected a number"),
        ('{"mfu": NaN}', "NaN"),
        ('{"bandwidth": 1e999}', "plan.json: bandwidth is inf; expected a number"),
        ('{"bandwidth": 1' + "0" * 500 + "}", "plan.json: bandwidth is 1000"),
        ('{"mfu": 49}', "plan.json: mfu 49; expected a share, 1 at most"),
        ('{"overhead": -1}', "plan.json: overhead -1; expected 0 or more"),
        ('{"memory_bandwidth": 0}', "plan.json: memory_bandwidth 0; expected more than 0"),
    ],
)  # fmt: skip
def test_a_file_of_measurements_that_is_none(tmp_path, capsys, content, line):
    file = tmp_path / "plan.json"
    if content is not None:
        file.write_text(content)
    assert main(["plan", "model=QwQ-32B", "--measured", str(file)]) == 2
    assert line in capsys.readouterr().err
