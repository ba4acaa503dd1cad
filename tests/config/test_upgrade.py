"""Runs that were begun under other names of fields."""

import pytest
import yaml

from megaprune.cli.main import main
from megaprune.config.read import differences, from_yaml, to_yaml
from megaprune.config.renamed import RENAMED
from megaprune.config.run import Config, read_config
from megaprune.evaluation.config import EvaluateConfig, read_evaluate_config
from megaprune.pruning.config import PruneConfig, read_prune_config

KINDS = {
    "tiny_overthinker": (Config, read_config),
    "qwq_32b": (PruneConfig, read_prune_config),
    "qwq_32b_test": (EvaluateConfig, read_evaluate_config),
}


def with_old_names(text):
    """A config.yaml as a run has it that was begun under the old names."""
    content = yaml.safe_load(text)
    if algorithm := content.get("algorithm"):
        loss = algorithm["loss"]
        content["algorithm"] = {
            "objective": algorithm["rewards"][0]["name"],
            "estimator": algorithm["advantage"]["name"],
            "refills": algorithm["filter"].get("max_resample_rounds", 0),
            "updates": algorithm["num_minibatches"],
            "clip_low": loss["clip_ratio_low"],
            "clip_high": loss["clip_ratio_high"],
            "kl": loss["kl_coef"],
            "entropy": loss["entropy_coef"],
            "importance_cap": loss["importance_cap"],
        }
    for old, new in RENAMED.items():
        *path, last = new.split(".")
        place = content
        for name in path:
            place = place.get(name, {}) if isinstance(place, dict) else {}
        if path[:1] != ["algorithm"] and isinstance(place, dict) and last in place:
            place[old.rpartition(".")[2]] = place.pop(last)
    return yaml.safe_dump(content)


@pytest.mark.parametrize("recipe", KINDS)
def test_a_run_goes_on_after_an_upgrade(recipe, tmp_path, capsys):
    kind, read = KINDS[recipe]
    config = read([f"recipe={recipe}"])
    old = with_old_names(to_yaml(config))
    with pytest.raises(ValueError, match="there is no field '.*'; its name is "):
        from_yaml(kind, old)
    path = tmp_path / "config.yaml"
    path.write_text(old)
    assert main(["config", "upgrade", str(tmp_path)]) == 0
    assert "is max_response_length" in capsys.readouterr().out.replace("rollout.", "")
    assert differences(config, path.read_text()) == []
    assert from_yaml(kind, path.read_text()) == config
    written = path.read_text()
    assert main(["config", "upgrade", str(tmp_path)]) == 0
    assert "nothing to change" in capsys.readouterr().out
    assert path.read_text() == written


def test_rounds_are_upgraded_with_their_pruning(tmp_path):
    for folder, recipe in ((tmp_path, "qwq_32b"), (tmp_path / "round_1_limit_4000", "qwq_32b")):
        folder.mkdir(exist_ok=True)
        read = read_prune_config if folder == tmp_path else read_config
        text = to_yaml(read([f"recipe={recipe}"]))
        (folder / "config.yaml").write_text(with_old_names(text))
    assert main(["config", "upgrade", str(tmp_path)]) == 0
    from_yaml(PruneConfig, (tmp_path / "config.yaml").read_text())
    from_yaml(Config, (tmp_path / "round_1_limit_4000" / "config.yaml").read_text())


@pytest.mark.parametrize("content", ["steps: [", "- 1\n", "stages: 3\n"])
def test_what_is_no_configuration_is_left_as_it_is(content, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    assert main(["config", "upgrade", str(tmp_path)]) == 1
    assert "cannot be read as a run's configuration" in capsys.readouterr().err
    assert path.read_text() == content
    assert main(["config", "upgrade", str(tmp_path / "nowhere")]) == 1
    assert "has no config.yaml" in capsys.readouterr().err
