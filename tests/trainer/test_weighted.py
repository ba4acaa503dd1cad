"""Responses with weights, as a run learns from them, with a real tiny actor."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from recorded import ROLLOUTS

from megaprune import schema
from megaprune.algorithms.sample_weights import SampleWeights
from megaprune.errors import InputError
from megaprune.harmonizing.reference import write_reference
from megaprune.harmonizing.table import write_weights
from megaprune.trainer.learner import Learner
from megaprune.trainer.weighted import cut_lengths, make_weighted_source, read_chosen

K = 4
OURS = SampleWeights()


@pytest.fixture
def weighted(recorded, configuration, tmp_path):
    """A run's configuration that learns from the recorded responses by their weights."""
    problems, _ = recorded

    def make(*fields, method="o1_pruner", weights=OURS):
        write_weights(tmp_path, ROLLOUTS, problems, K, method, weights, 0)
        return configuration(
            f"data.rollouts={ROLLOUTS}", f"data.weights={tmp_path}", "rollout.temperature=1",
            f"algorithm.loss.name={method}", *fields,
        )  # fmt: skip

    return make


def source_of(config, problems):
    """The source, after the reference's log-probs were computed if the loss needs them."""
    if "reference" in config.algorithm.needs:
        chosen = read_chosen(ROLLOUTS, Path(config.data.weights), problems)
        write_reference(config, chosen, comparable=True)
    return make_weighted_source(config, problems, config.algorithm)


def table(config):
    rows = pq.read_table(f"{config.data.weights}/{schema.WEIGHTS_FILE}").to_pylist()
    return {(row["problem"], row["number"]): row for row in rows if row["selected"]}


def keys(batch):
    return [(g.problem.name, r.number) for g in batch.groups for r in g.rollouts]


def test_every_epoch_has_each_chosen_response_once(alone, recorded, weighted):
    config = weighted("data.train_batch_size=4")
    chosen = table(config)
    source = source_of(config, recorded[0])
    assert len(chosen) % 4 == 0
    epochs = []
    for epoch in range(2):
        batches = [source.next(step) for step in range(len(chosen) // 4)]
        for batch in batches:
            weights = [chosen[key]["weight"] for key in keys(batch)]
            np.testing.assert_array_equal(batch.advantages[:, 0], weights)
        epochs.append([key for batch in batches for key in keys(batch)])
        assert sorted(epochs[epoch]) == sorted(chosen)
    assert epochs[0] != epochs[1]


def test_a_source_goes_on_where_it_was(alone, recorded, weighted):
    config = weighted("data.train_batch_size=3")
    one, other = source_of(config, recorded[0]), source_of(config, recorded[0])
    for step in range(3):
        one.next(step)
    other.load_state_dict(one.state_dict())
    assert keys(other.next(3)) == keys(one.next(3))


@pytest.mark.parametrize(
    ("prompt", "response", "left"),
    [
        (200, 4000, (200, 2872)),
        (200, 2872, (200, 2872)),
        (200, 2873, (200, 2872)),  # the end token alone
        (1600, 3000, (1069, 2003)),
        (3000, 100, (2972, 100)),
    ],
)
def test_the_published_cut_by_hand(prompt, response, left):
    """What the released function of O1-Pruner (2501.12570) gives for 3,072 tokens."""
    assert cut_lengths(prompt, response, 3072) == left


@pytest.mark.parametrize(("method", "cutoff"), [("o1_pruner", 60), ("o1_pruner", 100), ("dpo", 60)])
def test_responses_are_cut_with_their_prompts(alone, recorded, weighted, method, cutoff):
    """Their weights are of all of them; both of a pair have one prompt."""
    whole = weighted("data.train_batch_size=2", method=method)
    cut = replace(whole, data=replace(whole.data, cutoff=cutoff))
    problems = recorded[0]
    every, some = (
        {r.key: r for r in read_chosen(ROLLOUTS, Path(c.data.weights), problems, c.data.cutoff)}
        for c in (whole, cut)
    )
    assert every.keys() == some.keys()
    lengths = {}
    for response in every.values():
        lengths.setdefault(response.group, []).append(response.rollout.length)
    shorter = 0
    for key, response in every.items():
        prompt, left = cut_lengths(
            len(response.problem.tokens), max(lengths[response.group]), cutoff
        )
        assert prompt + left <= cutoff
        found = some[key]
        assert list(found.problem.tokens) == list(response.problem.tokens)[:prompt]
        np.testing.assert_array_equal(found.rollout.tokens, response.rollout.tokens[:left])
        np.testing.assert_array_equal(found.rollout.log_probs, response.rollout.log_probs[:left])
        assert (found.weight, found.raw) == (response.weight, response.raw)
        shorter += found.rollout.length < response.rollout.length
    assert shorter > 0
    # Prompts have 33 tokens: less than half of 100.
    assert {r.prompt_is_whole for r in some.values()} == {cutoff == 100}
    write_reference(cut, [*some.values()], comparable=True)  # of what is left
    batch = make_weighted_source(cut, problems, cut.algorithm).next(0)
    for rollout in (r for group in batch.groups for r in group.rollouts):
        assert len(rollout.reference_log_probs) == rollout.length < cutoff


def test_at_the_reference_the_loss_is_minus_the_mean_weight(recorded, weighted, make_actor):
    """And the reference's log-probs are not computed again: no second copy of the weights."""
    config = weighted("data.train_batch_size=8")
    batch = source_of(config, recorded[0]).next(0)
    learner = Learner(config, make_actor())
    assert learner._reference is None
    metrics = learner.learn(0, batch)
    assert metrics[schema.LOSS] == pytest.approx(-batch.advantages.mean(), abs=1e-5)
    assert metrics[schema.GRAD_NORM] > 0


def test_stored_log_probs_of_the_reference_are_those_that_the_run_would_compute(
    recorded, weighted, configuration, make_actor
):
    """Two steps on each way: with stored log-probs, and with the weights kept in memory."""
    config = weighted("data.train_batch_size=8", "algorithm.loss.kl_coef=0.5")
    source, actors = source_of(config, recorded[0]), (make_actor(), make_actor())
    stored = Learner(config, actors[0])
    kept = Learner(replace(config, data=replace(config.data, weights=None)), actors[1])
    for step in range(2):
        batch = source.next(step)
        bare = [
            replace(g, rollouts=[replace(r, reference_log_probs=None) for r in g.rollouts])
            for g in batch.groups
        ]
        ours, theirs = stored.learn(step, batch), kept.learn(step, replace(batch, groups=bare))
        for name in (schema.LOSS, schema.GRAD_NORM, schema.KL):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo"])
def test_other_methods_learn_from_what_is_chosen(recorded, weighted, make_actor, method):
    config = weighted("data.train_batch_size=2", method=method)
    batch = source_of(config, recorded[0]).next(0)
    of_group = 1 if method == "sft" else 2
    assert batch.advantages.shape == (2, of_group)
    metrics = Learner(config, make_actor()).learn(0, batch)
    if method == "sft":
        tokens = sum(r.length for r in batch.learned_rollouts)
        drawn = sum(float(r.log_probs.sum()) for r in batch.learned_rollouts)
        assert metrics[schema.LOSS] == pytest.approx(-drawn / tokens, abs=1e-4)
    if method == "dpo":  # at the reference no response is ahead
        assert metrics[schema.LOSS] == pytest.approx(np.log(2), abs=1e-5)


def test_log_probs_are_computed_once(alone, recorded, weighted, tmp_path):
    config = weighted()
    source_of(config, recorded[0])
    (part,) = (tmp_path / schema.REFERENCE_FOLDER).iterdir()
    before = part.read_bytes(), part.stat().st_mtime_ns
    source_of(config, recorded[0])
    assert (part.read_bytes(), part.stat().st_mtime_ns) == before
    part.unlink()
    source_of(config, recorded[0])
    assert part.read_bytes() == before[0]


def test_what_is_missing_is_said(alone, recorded, weighted, tmp_path):
    config = weighted()
    with pytest.raises(InputError, match="lacks the reference model's log-probs of"):
        make_weighted_source(config, recorded[0], config.algorithm)
    path = tmp_path / schema.WEIGHTS_FILE
    rows = pq.read_table(path)
    pq.write_table(rows.rename_columns(["number", "problem", *rows.column_names[2:]]), path)
    with pytest.raises(InputError, match=r"has no column problem of type string"):
        make_weighted_source(config, recorded[0], config.algorithm)


def test_responses_of_another_model_are_refused(alone, recorded, weighted):
    config = weighted("max_mismatch=1e-9")
    with pytest.raises(InputError, match="another model has drawn them"):
        source_of(config, recorded[0])
