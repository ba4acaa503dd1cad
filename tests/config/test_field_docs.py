"""What is said of fields: complete, readable, and the same on the page."""

from pathlib import Path

import pytest

from megaprune.cli.main import main
from megaprune.config.field_docs import chapters
from megaprune.config.fields import describe
from megaprune.config.run import Config
from megaprune.evaluation.config import EvaluateConfig
from megaprune.harmonizing.config import HarmonizeConfig
from megaprune.planner.request import PlanConfig
from megaprune.pruning.config import PruneConfig
from megaprune.study.config import StudyConfig

KINDS = {
    "train": Config, "prune": PruneConfig, "evaluate": EvaluateConfig, "plan": PlanConfig,
    "harmonize": HarmonizeConfig, "study": StudyConfig,
}  # fmt: skip


def test_the_page_is_what_the_command_prints(capsys):
    assert main(["config", "docs"]) == 0
    page = Path(__file__).parents[2] / "docs" / "fields.md"
    assert page.read_text() == capsys.readouterr().out, "megaprune config docs > docs/fields.md"


@pytest.mark.parametrize("command", KINDS)
def test_every_field_has_a_sentence(command):
    for doc in describe(KINDS[command]):
        assert doc.doc[:1].isupper() or doc.doc[:1].isdigit(), doc.name
        assert doc.doc.endswith("."), doc.name
    for chapter in chapters(KINDS[command]):
        assert chapter.doc


@pytest.mark.parametrize("command", KINDS)
def test_all_fields_at_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help-fields"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    words = text.split()
    assert [doc.name for doc in describe(KINDS[command]) if doc.name not in words] == []


def test_one_field_and_one_section(capsys):
    assert main(["train", "--help-fields", "optimizer.lr"]) == 0
    text = capsys.readouterr().out
    assert "optimizer.lr = 1e-06" in text
    assert "a number, more than 0" in text
    assert "optimizer.beta1" not in text
    assert main(["train", "--help-fields", "optimizer"]) == 0
    assert "optimizer.beta1 = 0.9" in capsys.readouterr().out
    assert main(["evaluate", "--help-fields", "length"]) == 0
    text = capsys.readouterr().out
    assert "max_response_length = 32000" in text
    assert "max_prompt_length = 768" in text


def test_a_name_that_is_not_there(capsys):
    assert main(["train", "--help-fields", "optimizer.lrr"]) == 1
    assert "did you mean optimizer.lr" in capsys.readouterr().err
