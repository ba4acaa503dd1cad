"""Batches: the first groups with signal in the order of the data, each problem once an epoch."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from megaprune.algorithms.algorithm import Algorithm
from megaprune.config.run import Config, DataConfig, RolloutConfig
from megaprune.data import Problem
from megaprune.data.order import ShuffledOrder, make_order
from megaprune.errors import InputError
from megaprune.generation.worker import Rollout
from megaprune.grading import Verdict
from megaprune.trainer.batch import Scorer, make_batch
from megaprune.trainer.metrics import Clock, batch_metrics
from megaprune.trainer.offline import read_references, read_rollouts
from megaprune.trainer.sources import OfflineSource, OnPolicySource

PROBLEMS = [Problem(f"p{i}", "set", (), f"prompt {i}", (1, 2), str(i)) for i in range(50)]
N, K = 8, 4
RIGHT, WRONG = Verdict(True, "1", "right"), Verdict(False, "2", "wrong")


class RecordedWorker:
    """Gives graded rollouts of one engine as a table says: which problems have a signal."""

    def __init__(self, empty):
        self.empty, self.calls, self.requested = empty, [], {}
        self.generator = SimpleNamespace(share=lambda count: range(count))

    def generate(self, requests, sampling, *, policy_version):
        self.calls.append((policy_version, sampling.seed, [r.key for r in requests.values()]))
        self.requested, self.version = requests, policy_version

    def gather(self):
        rollouts = []
        for index, request in self.requested.items():
            empty = request.problem.name in self.empty
            for number in range(K):
                right = True if empty else number % 2 == 0
                tokens = np.arange(3 + number)
                rollouts.append(
                    Rollout(
                        index, number, tokens, np.zeros(len(tokens), np.float32), "stop", "text",
                        RIGHT if right else WRONG, self.version,
                    )
                )  # fmt: skip
        return rollouts


def config(**rollout):
    return Config(
        model="m", out="o", data=DataConfig(train="t", train_batch_size=N),
        rollout=RolloutConfig(n=K, max_response_length=100, **rollout),
    )  # fmt: skip


def algorithm(rounds=2):
    chosen = {"name": "no_signal", "max_resample_rounds": rounds} if rounds else "none"
    return Algorithm.from_spec({"reward": "truncate", "filter": chosen})


def source(share=0.0, rounds=2, worker=None, seed=0, **rollout):
    random = np.random.default_rng(7)
    empty = {p.name for p in PROBLEMS if random.random() < share}
    worker = worker or RecordedWorker(empty)
    order = ShuffledOrder(len(PROBLEMS), seed)
    return OnPolicySource(
        config(**rollout), PROBLEMS, order, worker, algorithm(rounds), Clock(), lambda _: None
    )


def consumed(batch):
    """Numbers of the problems that a batch uses up, in the order of the data."""
    return {group.place for group in batch.drawn}


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("carry_over", [False, True])
def test_every_problem_comes_once_an_epoch(share, carry_over):
    own = source(share, carry_over=carry_over)
    used: list[int] = []
    step = 0
    while len(used) < 3 * len(PROBLEMS):
        batch = own.next(step)
        assert len(batch.groups) == N
        used += [group.place for group in sorted(batch.drawn, key=lambda g: g.place)]
        step += 1
    # Epochs run into each other: after k whole epochs each problem was used k times, or once more.
    counts = np.bincount(used, minlength=len(PROBLEMS))
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == len(used)


def test_the_batch_is_the_first_groups_with_signal_in_the_order_of_the_data():
    own = source(0.4)
    worker, order = own._worker, ShuffledOrder(len(PROBLEMS), 0)
    for step in range(20):
        batch = own.next(step)
        upcoming = iter(order.take(100))
        expected = []
        passed = []
        while len(expected) < N:
            place = next(upcoming)
            (passed if PROBLEMS[place].name in worker.empty else expected).append(place)
        assert [group.place for group in batch.groups] == expected
        # An empty group behind the last one with signal is left to the next step.
        assert [group.place for group in batch.filtered] == passed
        order._position -= 100 - len(expected) - len(passed)


def test_engines_run_ahead_by_the_share_of_groups_with_signal():
    own = source(0.4)
    for step in range(12):
        own.next(step)
    draws: dict[int, list[int]] = {}
    for step, _, keys in own._worker.calls:
        draws.setdefault(step, []).append(len(keys))
    assert draws[0][0] == N  # nothing is known yet
    later = [counts for step, counts in draws.items() if step]
    assert all(counts[0] > N for counts in later)
    assert sum(len(counts) == 1 for counts in later) >= len(later) / 2  # no second draw to wait for


def test_what_is_missing_is_made_up_by_groups_without_signal():
    own = source(1.0, rounds=1)
    batch = own.next(0)
    assert len(batch.groups) == N
    assert not any(group.kept for group in batch.groups)
    assert len(batch.filtered) == N
    assert not batch.surplus
    assert not batch.advantages.any()


def test_a_resumed_source_gives_the_same_batches(tmp_path):
    for carry_over in (False, True):
        whole = source(0.4, carry_over=carry_over)
        batches = [whole.next(step) for step in range(9)]
        first = source(0.4, carry_over=carry_over)
        for step in range(4):
            first.next(step)
        second = source(0.4, carry_over=carry_over)
        # As a checkpoint is read: nothing but plain data.
        torch.save(first.state_dict(), tmp_path / "state.pt")
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for step in range(4, 9):
            batch = second.next(step)
            for groups in ("groups", "filtered", "surplus"):
                ours, theirs = getattr(batch, groups), getattr(batches[step], groups)
                assert [g.place for g in ours] == [g.place for g in theirs]
                assert [r.policy_version for g in ours for r in g.rollouts] == [
                    r.policy_version for g in theirs for r in g.rollouts
                ]
            np.testing.assert_array_equal(batch.advantages, batches[step].advantages)


def test_a_resumed_source_remembers_what_rewards_did(tmp_path):
    remembering = Algorithm.from_spec(
        {"reward": "shortest_ever", "filter": {"name": "no_signal"}, "advantage": "group_mean"}
    )

    def make():
        made = source(0.4, carry_over=True)
        return OnPolicySource(
            config(carry_over=True), PROBLEMS, made._order, made._worker, remembering, Clock(),
            lambda _: None,
        )  # fmt: skip

    whole = make()
    batches = [whole.next(step) for step in range(16)]
    # In the second epoch, the shortest answer of the first is known: 3 tokens, of number 0.
    again = [g for batch in batches[12:] for g in batch.groups if g.kept]
    assert again
    right = np.cos(np.minimum(np.pi, np.pi / 2 * np.array([3, 5]) / 3))
    for group in again:
        expected = 1 + np.maximum(right, -0.7)
        np.testing.assert_allclose(group.score.rewards[[0, 2]], expected, atol=1e-12)
    first, second = make(), make()
    for step in range(7):
        first.next(step)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(7, 16):
        np.testing.assert_array_equal(second.next(step).advantages, batches[step].advantages)


def test_what_is_carried_over_is_used_first_and_keeps_its_policy():
    own = source(0.4, carry_over=True)
    carried = 0
    surplus: list = []
    for step in range(12):
        batch = own.next(step)
        drawn = [group.place for group in batch.drawn + list(batch.surplus)]
        assert set(g.place for g in surplus) <= set(drawn)
        for group in batch.drawn:
            versions = {rollout.policy_version for rollout in group.rollouts}
            assert versions <= set(range(step + 1))
            carried += versions != {step}
        surplus = list(batch.surplus)
    assert carried


def test_what_rewards_make_of_right_answers():
    drawn = source(0.4)
    longest = Algorithm.from_spec({"reward": {"name": "longest_penalty", "penalty": 1.0}})
    own = OnPolicySource(
        config(), PROBLEMS, drawn._order, drawn._worker, longest, Clock(), lambda _: None
    )
    batch = own.next(0)
    # Four right ones of 3, 4, 5 and 6 tokens in an empty group, else two: the longest is worth 0.
    empty = sum(group.problem.name in drawn._worker.empty for group in batch.groups)
    right = 4 * empty + 2 * (N - empty)
    metrics = batch_metrics(batch, longest)
    assert empty
    assert metrics["reward/wiped"] == metrics["reward/adjusted"] == pytest.approx(N / right)
    assert metrics["reward/unshaped"] == 0
    plain = batch_metrics(drawn.next(0), algorithm())
    assert (plain["reward/wiped"], plain["reward/adjusted"], plain["reward/unshaped"]) == (0, 0, 1)


def test_metrics_are_of_all_that_was_drawn_and_of_what_is_learned_from():
    own = source(0.4)
    batch = own.next(0)
    metrics = batch_metrics(batch, algorithm())
    empty, full = len(batch.filtered), len(batch.groups)
    assert empty
    assert metrics["accuracy"] == pytest.approx((empty + 0.5 * full) / (empty + full))
    assert metrics["learned/accuracy"] == 0.5
    assert metrics["no_signal"] == pytest.approx(empty / (empty + full))
    assert metrics["reward"] == metrics["accuracy"]
    # With a recipe that replaces nothing, both are the same, under the same names.
    without = batch_metrics(source(0.4, rounds=0).next(0), algorithm(0))
    both = {name: value for name, value in without.items() if f"learned/{name}" in without}
    assert both == {name: without[f"learned/{name}"] for name in both}
    assert both.keys() == {n.removeprefix("learned/") for n in metrics if n.startswith("learned/")}
    assert {"reward", "accuracy", "response_length/mean", "truncated"} <= both.keys()


def test_rows_of_what_was_passed_over_have_no_advantage():
    batch = source(0.4).next(0)
    rows = batch.rows()
    assert len(rows) == K * (len(batch.groups) + len(batch.filtered) + len(batch.surplus))
    assert all(row["advantage"] is not None for row in rows[: K * N])
    assert all(row["advantage"] is None for row in rows[K * N :])
    assert all(len(row["log_probs"]) == row["length"] == len(row["tokens"]) for row in rows)


ORDER = """
class Hardest:
    def __init__(self, count, seed):
        self.count, self.accuracy, self.taken = count, {}, 0

    def take(self, count):
        order = sorted(range(self.count), key=lambda i: (self.accuracy.get(i, 0.0), i))
        picked = [order[(self.taken + i) % self.count] for i in range(count)]
        self.taken += count
        return picked

    def observe(self, results):
        self.accuracy |= {result.problem: result.accuracy for result in results}
        self.taken = 0

    def state_dict(self):
        return {"accuracy": {str(k): v for k, v in self.accuracy.items()}}

    def load_state_dict(self, state):
        self.accuracy = {int(k): v for k, v in state["accuracy"].items()}


class NoOrder:
    pass
"""


def test_an_order_of_the_user_s_own_sees_results_and_keeps_its_state(tmp_path):
    (tmp_path / "mine.py").write_text(ORDER)
    name = f"{tmp_path / 'mine.py'}:Hardest"
    worker = RecordedWorker({p.name for p in PROBLEMS[:N]})

    def own():
        order = make_order(name, len(PROBLEMS), 0)
        return OnPolicySource(
            config(), PROBLEMS, order, worker, algorithm(0), Clock(), lambda _: None
        )

    first = own()
    assert [g.place for g in first.next(0).groups] == list(range(N))
    # All of those were right every time; the others come before them now.
    assert [g.place for g in first.next(1).groups] == list(range(N, 2 * N))
    second = own()
    second.load_state_dict(first.state_dict())
    assert [g.place for g in second.next(2).groups] == [g.place for g in first.next(2).groups]


def test_orders_that_cannot_be(tmp_path):
    (tmp_path / "mine.py").write_text(ORDER)
    with pytest.raises(InputError, match="data.order=sorted; expected shuffled, or a class"):
        make_order("sorted", 5, 0)
    with pytest.raises(InputError, match="has no method take, observe"):
        make_order(f"{tmp_path / 'mine.py'}:NoOrder", 5, 0)
    with pytest.raises(InputError, match="there is no such file"):
        make_order(str(tmp_path / "none.py:Order"), 5, 0)


@pytest.mark.parametrize("numbers", [[0, 1], [0] * 7 + [50], [-1] * 8])
def test_an_order_that_gives_what_is_not_there(numbers):
    order = ShuffledOrder(len(PROBLEMS), 0)
    order.take = lambda count: numbers
    own = OnPolicySource(
        config(), PROBLEMS, order, RecordedWorker(set()), algorithm(0), Clock(), lambda _: None
    )
    with pytest.raises(InputError, match=r"take\(8\) gave .*; expected 8 numbers of problems"):
        own.next(0)


def test_stored_rollouts_are_learned_from(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from megaprune.schema import samples_schema

    batch = source(0.0, rounds=0).next(0)
    (tmp_path / "run" / "samples").mkdir(parents=True)
    table = pa.Table.from_pylist([{"step": 1, **row} for row in batch.rows()], samples_schema())
    pq.write_table(table, tmp_path / "run" / "samples" / "step_000001.parquet")
    problems, rollouts = read_rollouts(tmp_path / "run", PROBLEMS, K)
    assert {p.name for p in problems} == {group.problem.name for group in batch.groups}
    settings = config()
    settings = replace(settings, data=replace(settings.data, rollouts=str(tmp_path / "run")))
    order = ShuffledOrder(len(problems), 0)
    own = OfflineSource(settings, problems, order, rollouts, algorithm(0))
    stored = own.next(0)
    assert len(stored.groups) == N
    by_name = {group.problem.name: group for group in batch.groups}
    for group in stored.groups:
        drawn = by_name[group.problem.name]
        np.testing.assert_array_equal(group.score.rewards, drawn.score.rewards)
        for ours, theirs in zip(group.rollouts, drawn.rollouts, strict=True):
            np.testing.assert_array_equal(ours.tokens, theirs.tokens)
            np.testing.assert_array_equal(ours.log_probs, theirs.log_probs)
            assert ours.policy_version == -1
    drawn = [group.problem for group in batch.groups]
    references = read_references(tmp_path / "run", drawn)
    assert references[drawn[0].name] == {
        "length": [3, 4, 5, 6], "accuracy": [True, False, True, False],
    }  # fmt: skip
    with pytest.raises(InputError, match="42 of 50 problems of data.train have no response there"):
        read_references(tmp_path / "run", PROBLEMS)
    with pytest.raises(InputError, match="responses to another prompt"):
        read_references(tmp_path / "run", [replace(drawn[0], prompt="another")])
    with pytest.raises(InputError, match="evaluate the reference model again"):
        read_references(tmp_path / "run", drawn, "thought")
    # The reward of O1-Pruner, on policy: the reference has 4.5 tokens, and half of it is right.
    harmonize = Algorithm.from_spec({"reward": "harmonize", "filter": "none"})
    own = OfflineSource(settings, problems, order, rollouts, harmonize, references)
    expected = 4.5 / np.array([3, 4, 5, 6]) - 1 + 2 * (np.array([1, 0, 1, 0]) - 0.5)
    np.testing.assert_allclose(own.next(0).groups[0].score.rewards, expected)
    with pytest.raises(InputError, match="no problem of data.train has rollout.n=5 responses"):
        read_rollouts(tmp_path / "run", PROBLEMS, 5)
    with pytest.raises(InputError, match="has no files of responses"):
        read_rollouts(tmp_path, PROBLEMS, K)
    other = [replace(problem, prompt="another") for problem in PROBLEMS]
    with pytest.raises(InputError, match="responses to another prompt"):
        read_rollouts(tmp_path / "run", other, K)


def test_thoughts_are_measured_and_budgets_carried():
    def scored(spec, problem=PROBLEMS[0], thoughts=(2, 8)):
        rollouts = [
            Rollout(
                0, n, np.arange(10), np.zeros(10, np.float32), "stop", "", RIGHT, thought_length=thought
            )
            for n, thought in enumerate(thoughts)
        ]  # fmt: skip
        scorer = Scorer(Algorithm.from_spec(spec), 10)
        batch = make_batch(scorer._algorithm, [scorer.score(0, problem, rollouts)])
        scorer.observe(batch)
        return batch.groups[0].score.rewards.tolist(), scorer.state_dict()["memory"]

    assert scored({"reward": "shortest"}) == ([2, 2], {})
    assert scored({"reward": "shortest", "length": "thought"})[0] == [2, pytest.approx(2 - 0.006)]
    # What is cut off is a matter of the whole response; an easy problem's limit is the thought's.
    assert scored({"reward": "truncate", "length": "thought"})[0] == [1, 1]
    easy = {"name": "truncate", "easy_limit": 5}
    assert scored({"reward": easy, "length": "thought"})[0] == [1, 0]
    memory = scored({"reward": "shortest_ever", "length": "thought"})[1]
    assert memory == {"shortest_ever": {"shortest": {"p0": 2}}}
    with pytest.raises(InputError, match="nobody counted the thoughts of the responses to p0"):
        scored({"reward": "shortest", "length": "thought"}, thoughts=(2, None))
    budgeted = {"reward": {"name": "budget_exact", "alpha": 0.1}}
    assert scored(budgeted)[0] == [1, 1]  # the round's limit
    assert scored(budgeted, replace(PROBLEMS[0], budget=7))[0] == pytest.approx([0.7, 0.7])
