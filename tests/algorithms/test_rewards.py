"""Rewards, by hand."""

import json
import subprocess
import sys
from dataclasses import replace
from math import cos, e, log, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaprune.algorithms import registry
from megaprune.algorithms.records import Group
from megaprune.algorithms.registry import components
from megaprune.algorithms.rewards.soft_overlong import SoftOverlong
from megaprune.algorithms.rewards.truncate import Truncate
from megaprune.errors import InputError


def group(correct, length, finished=None, limit=400, **more):
    finished = [1] * len(correct) if finished is None else finished
    return Group(np.array(correct, bool), np.array(length), np.array(finished, bool), limit, **more)


def published(**more):
    # The table's four responses: right and short, right, wrong, right but longer than 4000.
    return group([1, 1, 0, 1], [1000, 3000, 2000, 5000], limit=4000, **more)


def reward(name, **fields):
    return registry.build("reward", {"name": name, **fields}, "algorithm.reward")


REFERENCE = {"reference": {"length": 4000, "accuracy": 0.5}}

PUBLISHED = [
    (("truncate", {}), [1, 1, 0, 0]),
    (("soft_overlong", {"cache": 1000}), [1, 1, 0, 0]),
    (("relative", {"alpha": 0.2}), [0.9546, 0.9000, 0, 0.8454]),
    (("minmax", {"w": 1}), [1.5, 1.0, 0.0, 0.5]),
    (("budget_exact", {}), [0.1, 0.7, -0.6, 0.7]),
    (("budget_max", {}), [1.0, 0.8, 0, 0.2]),
    (("step_bonus", {}), [1.5, 1.5, -0.5, 1.0]),
    (("shortest", {}), [2, 0, -1, -2]),
    (("solve_rate", {"beta": 0.2, "N": 16000}), [0.9906, 0.9719, -0.0188, 0.9531]),
    (("harmonize", {"lam": 2}), [4.0, 1.3333, 0.0, 0.8]),
    # The rest by hand: right ones have 1000, 3000 and 5000 tokens, all of them 2750 in the mean.
    (("correct", {}), [1, 1, 0, 1]),
    (("multiplicative", {"alpha": 0.33}), [1 / 1.12, 1 / 1.36, 0, 1 / 1.6]),
    (("shortest_bonus", {"bonus": 0.5}), [1.5, 1, 0, 1]),
    (("longest_penalty", {"penalty": 0.5}), [1, 1, 0, 0.5]),
    (("group_relative", {"w": 0.5}), [1.25, 1, 0, 0.75]),
    (("outlier", {"threshold": 0.5}), [1, 1, 0, 0]),  # MAD 2000: scores -.67, 0, -.34, .67
    (("pass_rate", {"w": 0.8}), [0.88, 0.64, 0, 0.4]),  # w p = 0.6
    (("cosine", {}), [1.5 + cos(pi / 4) / 2, 1.5 - cos(pi / 4) / 2, -5, 1]),
    (("gate", {"min_pass_rate": 0.75}), [1.25, 1, 0, 0.75]),
    (("gate", {"min_pass_rate": 0.76}), [1, 1, 0, 1]),
    (("gate", {"min_mean_length": 2751}), [1, 1, 0, 1]),
    (("log_bonus", {"alpha": 0.2}), [1 + 0.2 * log(2.55), 1 + 0.2 * log(0.85), 0, 1 + 0.2 * log(0.51)]),
    (("shortest_ever", {}), [1, 1, 0, 1]),
    (("truncate", {"cut_off": "keep"}), [1, 1, 0, 1]),
    (("truncate", {"cut_off": "soft", "soft_value": 0.3}), [1, 1, 0, 0.3]),
    (("truncate", {"easy_limit": 2000}), [1, 0, 0, 0]),  # half of them are right within 4000
    (("truncate", {"easy_limit": 2000, "easy_from": 0.51}), [1, 1, 0, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "expected"), PUBLISHED)
def test_one_group_of_four(spec, expected):
    name, fields = spec
    rewards = reward(name, **fields)(published(extra=REFERENCE))
    assert rewards.dtype == np.float64
    assert rewards.tolist() == pytest.approx(expected, abs=5e-5)


def test_step_bonus_explores_and_tells_what_has_no_answer():
    some = group([1, 1, 0, 1], [1000, 3000, 2000, 5000], limit=1500)
    assert reward("step_bonus", explore=True)(some).tolist() == [1.5, 1, 0, 1]
    unread = group([1, 0, 0], [5, 5, 9], limit=6, answered=np.array([True, False, True]))
    assert reward("step_bonus")(unread).tolist() == [1.5, -1, -0.5]


S = 1 / (1 + e)
"""The sigmoid of -1; of 1 it is 1 - S."""

# Groups of one right answer, of two right, two wrong, two of one length of which one is wrong, a
# right answer that was cut off beside one that was not, and two right ones that tie for shortest.
EDGES = {
    "one": group([1], [200]),
    "all right": group([1, 1], [100, 300]),
    "all wrong": group([0, 0], [100, 300]),
    "equal": group([1, 0], [200, 200]),
    "cut off": group([1, 1], [400, 100], [0, 1]),
    "ties": group([1, 1, 1], [100, 100, 300]),
}
BY_HAND = {
    "correct": ([1], [1, 1], [0, 0], [1, 0], [1, 1], [1, 1, 1]),
    "truncate": ([1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1, 1]),
    # With a cache of 1000 all responses are within the last tokens before 400.
    "soft_overlong": ([0.2], [0.3, 0.1], [-0.7, -0.9], [0.2, -0.8], [0, 0.3], [0.3, 0.3, 0.1]),
    "relative": (
        [0.9], [1 - 0.2 * S, 0.8 + 0.2 * S], [0, 0], [0.9, 0], [0.8 + 0.2 * S, 1 - 0.2 * S],
        # mean 500/3, deviation 200/3 sqrt 2: -1/sqrt 2 twice, then sqrt 2
        [1 - 0.2 / (1 + e ** (1 / sqrt(2)))] * 2 + [1 - 0.2 / (1 + e ** -sqrt(2))],
    ),
    "minmax": ([1], [1.5, 0.5], [0, -0.5], [1, 0], [0.5, 1.5], [1.5, 1.5, 0.5]),
    "budget_exact": (
        [0.94], [0.91, 0.97], [-0.09, -0.03], [0.94, -0.06], [1, 0.91], [0.91, 0.91, 0.97],
    ),
    "budget_max": ([0.56], [0.59, 0.53], [0, 0], [0.56, 0], [0.5, 0.59], [0.59, 0.59, 0.53]),
    "step_bonus": ([1.5], [1.5, 1.5], [-0.5, -0.5], [1.5, -0.5], [1.5, 1.5], [1.5, 1.5, 1.5]),
    "shortest": ([2], [2, 1.8], [-0.1, -0.1], [2, 0], [1.7, 2], [2, 2, 1.8]),
    # p L / N of 0.2: where none is right p is 1/K
    "solve_rate": (
        [0.9975], [0.99875, 0.99625], [-0.000625, -0.001875], [0.99875, -0.00125],
        [0.995, 0.99875], [0.99875, 0.99875, 0.99625],
    ),
    "pass_rate": ([0.5], [5 / 6, 0.5], [0, 0], [0.75, 0], [0.5, 0.875], [5 / 6, 5 / 6, 0.5]),
    "multiplicative": (
        [1 / 1.33], [1 / 1.165, 1 / 1.495], [0, 0], [1 / 1.33, 0], [1 / 1.528, 1 / 1.132],
        [1 / 1.198, 1 / 1.198, 1 / 1.594],
    ),
    "shortest_bonus": ([1.5], [1.5, 1], [0, 0], [1.5, 0], [1, 1.5], [1.5, 1.5, 1]),
    "longest_penalty": ([1], [1, 0.5], [0, 0], [1, 0], [0.5, 1], [1, 1, 0.5]),
    "group_relative": (
        [1], [1.25, 0.75], [0, 0], [1, 0], [0.75, 1.25], [7 / 6, 7 / 6, 2 / 3],
    ),
    # Two are as far from their median as the deviation; where two of three are equal it is 0.
    "outlier": ([1], [1, 1], [0, 0], [1, 0], [1, 1], [1, 1, 1]),
    "gate": ([1], [1.25, 0.75], [0, 0], [1, 0], [0.75, 1.25], [7 / 6, 7 / 6, 2 / 3]),
    "cosine": (
        [1.5], [1.5 + cos(pi / 4) / 2, 1.5 - cos(pi / 4) / 2],
        [-5 - 5 * cos(pi / 4), -5 + 5 * cos(pi / 4)], [1.5, -5], [-10, 1.5 + cos(pi / 4) / 2],
        [1.5 + cos(pi / 4) / 2, 1.5 + cos(pi / 4) / 2, 1.5 - cos(pi / 4) / 2],
    ),
    # Where nothing is remembered, the budget is 0.85 of the group's own mean of right ones.
    "log_bonus": (
        [1 + 0.2 * log(0.85)], [1 + 0.2 * log(1.7), 1 + 0.2 * log(1.7 / 3)], [0, 0],
        [1 + 0.2 * log(0.85), 0], [1 + 0.2 * log(0.53125), 1 + 0.2 * log(2.125)],
        [1 + 0.2 * log(0.85 * 5 / 3)] * 2 + [1 + 0.2 * log(0.85 * 5 / 9)],
    ),
    "shortest_ever": ([1], [1, 1], [0, 0], [1, 0], [1, 1], [1, 1, 1]),
    # The reference has right answers of 100 and 300 tokens: mean 200, deviation 100.
    "profile": ([1], [1, 0.5], [0, 0], [1, 0], [0.5, 1], [1, 1, 0.5]),
    "harmonize": ([0], [1, -1 / 3], [-1, -7 / 3], [0, -2], [-0.5, 1], [1, 1, -1 / 3]),
}  # fmt: skip
TWICE_RIGHT = {"reference": {"length": [100, 300], "accuracy": [1, 1]}}


@pytest.mark.parametrize("name", BY_HAND)
def test_edges(name):
    for kind, expected in zip(EDGES, BY_HAND[name], strict=True):
        rewards = reward(name)(replace(EDGES[kind], extra=TWICE_RIGHT))
        assert rewards.tolist() == pytest.approx(expected, abs=1e-12), kind


def test_references_by_hand():
    profiled = {"reference": {"length": [100, 300, 900], "accuracy": [1, 1, 0]}}
    some = group([1, 1, 0, 1], [299, 300, 10, 500], extra=profiled)  # mean 200, deviation 100
    assert reward("profile")(some).tolist() == [1, 0.5, 0, 0.5]
    assert reward("profile", deviations=3, penalty=1)(some).tolist() == [1, 1, 0, 0]
    band = reward("profile", form="band", low=1, high=2, floor=0.5)
    assert band(some).tolist() == pytest.approx([1 - 0.5 * 0.495, 0.75, 0, 0.5])
    once = {"reference": {"length": [100, 300], "accuracy": [True, False]}}
    assert reward("profile")(group([1, 0], [900, 1], extra=once)).tolist() == [1, 0]
    # A list of lengths and verdicts serves as well as their means.
    listed = {"reference": {"length": [3000, 5000], "accuracy": [0, 1]}}
    assert reward("harmonize")(published(extra=listed)).tolist() == pytest.approx(
        reward("harmonize")(published(extra=REFERENCE)).tolist()
    )
    alone = {"reference": {"length": 50, "accuracy": 1.0}}
    assert reward("harmonize")(group([0], [200], extra=alone)).tolist() == [0.25 - 1 - 2]


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("harmonize", {}, "group p7 carries no reference.length"),
        ("harmonize", {"reference": {"length": 5}}, "group p7 carries no reference.accuracy"),
        ("profile", REFERENCE, "expected lists, one entry for each response"),
        ("profile", {"reference": {"length": [1, 2], "accuracy": [1]}}, "2 entries of reference.l"),
    ],
)
def test_a_problem_without_its_reference(name, extra, message):
    with pytest.raises(InputError, match=message):
        reward(name)(group([1], [5], extra=extra, name="p7"))


def test_shortest_ever_remembers_each_problem():
    hapo = reward("shortest_ever")
    memory = hapo.start()
    memory = hapo.observe(memory, [group([1, 1, 0], [400, 200, 100], name="a")])
    memory = hapo.observe(memory, [group([1], [300], name="a"), group([0], [9], name="b")])
    assert memory == {"shortest": {"a": 200}}
    lengths = [100, 200, 300, 2000, 100, 300]
    rewards = hapo(group([1, 1, 1, 1, 0, 0], lengths, name="a", memory=memory))
    c = cos(pi / 4)
    assert rewards.tolist() == pytest.approx([1 + c, 1, 1 - 0.7, 0.3, 0, -c])
    assert hapo(group([1, 0], [900, 1], name="b", memory=memory)).tolist() == [1, 0]


def test_log_bonus_remembers_a_mean_length():
    acoer = reward("log_bonus", alpha=0.5, share=0.8, decay=0.75)
    memory = acoer.observe(acoer.start(), [group([1, 1, 0], [100, 300, 9]), group([1], [200])])
    assert memory == {"length": 200}
    memory = acoer.observe(memory, [group([1], [400])])
    assert memory == {"length": 250}
    assert acoer.observe(memory, [group([0], [1])]) == memory
    rewards = acoer(group([1, 1, 0], [200, 10_000, 1], memory=memory))
    assert rewards.tolist() == pytest.approx([1, 0, 0])


def test_step_bonus_finds_budgets_by_difficulty():
    laser = reward("step_bonus", by_difficulty=True, retune_every=2, expected_right=1)
    easy = group([1, 1, 1], [10, 20, 30])
    hard = group([1, 0, 0, 0], [90, 5, 5, 5])
    memory = laser.observe(laser.start(), [easy, hard])
    assert memory["budgets"] == {}
    assert laser(group([1], [90], limit=80, memory=memory)).tolist() == [1]
    memory = laser.observe(memory, [group([1, 1, 1], [15, 25, 35]), hard])
    # Two easy groups: the second shortest of six right answers. Two hard ones: the longer of two.
    assert memory["budgets"] == {"easy": 15, "hard": 90}
    assert laser(group([1, 1], [15, 16], memory=memory)).tolist() == [1.5, 1]
    # Nothing was seen of those between: the round's limit.
    assert laser(group([1, 0], [400, 1], memory=memory)).tolist() == [1.5, -0.5]
    fixed = reward("step_bonus")
    assert fixed.observe(fixed.start(), [easy]) == fixed.start()


def test_memories_are_plain():
    for name, kind in components("reward").items():
        if hasattr(kind, "observe"):
            instance = reward(name)
            memory = instance.observe(instance.start(), [published(name="p"), published(name="q")])
            assert json.loads(json.dumps(memory)) == memory, name


def test_criteria_by_hand():
    texts = (
        r"<think>a</think> The answer is $\boxed{1}$.",
        r"<think>a</think> \boxed{1} or \boxed{2}",
        r"<think>a</think> \boxed{1}, since 2 is even",
        r"<think>a</think> 1",
        r"<think>a \boxed{1}",
    )
    some = group([1] * 5, [1] * 5, text=texts)
    assert reward("format")(some).tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 0])
    assert reward("format", thought="none")(group([1], [1], text=("1",))).tolist() == [1 / 3]
    said = group([1, 1, 1], [1, 1, 1], text=("a b a b a", "a b c", ""))
    assert reward("repetition", n=2)(said).tolist() == [-0.5, 0, 0]
    checks = "Let me check. Is that right? Yes. " * 3
    checked = group([1, 0], [1, 1], text=(checks, "One. Two."))
    assert reward("rechecks", most=8)(checked).tolist() == [-0.75, 0]
    assert reward("rechecks", most=4)(checked).tolist() == [-1, 0]
    for name in ("format", "repetition", "rechecks"):
        with pytest.raises(InputError, match=f"reward {name}: group p9 has no text"):
            reward(name)(group([1], [1], name="p9"))


@pytest.mark.parametrize(
    ("correct", "length", "finished", "worth"),
    [
        (1, 1, 1, 1.0),
        (1, 10, 1, 1.0),  # the limit itself is within
        (1, 11, 1, 0.0),
        (1, 10, 0, 0.0),  # right, but cut off: a box in an unfinished thought is worth nothing
        (0, 1, 1, 0.0),
        (0, 10, 0, 0.0),
    ],
)
def test_truncate_needs_all_three(correct, length, finished, worth):
    assert Truncate()(group([correct], [length], [finished], 10)).tolist() == [worth]


def test_soft_overlong_by_hand():
    # Limit 10, cache 4: free up to 6, then a quarter more for each token, 1 from 10 on.
    lengths = [1, 6, 7, 9, 10, 12]
    penalty = [0.0, 0.0, -0.25, -0.75, -1.0, -1.0]
    dapo = SoftOverlong(cache=4)
    right = dapo(group([1] * 6, lengths, [1] * 6, 10))
    wrong = dapo(group([0] * 6, lengths, [1] * 6, 10))
    assert right.tolist() == [1 + p for p in penalty]
    assert wrong.tolist() == penalty
    assert right.dtype == np.float64


@pytest.mark.parametrize("cache", [0, -1, 2.5, "4", True])
def test_soft_overlong_has_a_cache(cache):
    with pytest.raises(InputError, match=rf"cache={cache!r}; expected (1 or more|a whole number)"):
        SoftOverlong(cache=cache)


def test_a_gate_to_a_reward_that_there_is_not():
    with pytest.raises(InputError, match=r"algorithm.reward.of.name='minmix'; .*minmax"):
        reward("gate", of={"name": "minmix"})
    with pytest.raises(InputError, match=r"algorithm.reward.of.w"):
        reward("gate", of={"name": "minmax", "w": -1})


PROFILED = {"reference": {"length": [100, 200, 300], "accuracy": [1, 1, 1]}}
LONGER_MAY_EARN_MORE = {"budget_exact"}
"""Where a longer right answer may earn more: below its budget."""
WRONG_MAY_DEPEND = {"cosine", "harmonize", "shortest_ever", "step_bonus"}
"""Where a wrong answer's length counts as published, and there is no `scope` to choose."""
SCOPED = ("soft_overlong", "minmax", "budget_exact", "shortest", "solve_rate")
BOUNDS = {
    **dict.fromkeys(("correct", "truncate", "relative", "budget_max", "pass_rate"), (0, 1)),
    **dict.fromkeys(("multiplicative", "longest_penalty", "outlier", "profile"), (0, 1)),
    **dict.fromkeys(("shortest_bonus", "group_relative", "gate"), (0, 1.5)),
    **dict.fromkeys(("budget_exact", "solve_rate"), (-np.inf, 1)),
    "soft_overlong": (-1, 1), "minmax": (-0.5, 1.5), "step_bonus": (-1, 1.5),
    "shortest": (-np.inf, 2), "cosine": (-10, 2), "harmonize": (-3, np.inf),
    "shortest_ever": (-1, 2), "log_bonus": (0, np.inf),
}  # fmt: skip
TEXTUAL = {"format", "repetition", "rechecks"}
LENGTH_REWARDS = sorted(components("reward").keys() - TEXTUAL)
assert BY_HAND.keys() == set(LENGTH_REWARDS)

responses = st.lists(
    st.tuples(st.booleans(), st.integers(1, 500), st.booleans()), min_size=1, max_size=8
)


def of(rows, limit=300, memory=True):
    remembered = {"shortest": {"p": 120}, "length": 150, "budgets": {"easy": 100}} if memory else {}
    correct, length, finished = zip(*rows, strict=True)
    more = {"extra": PROFILED, "name": "p", "memory": remembered}
    return group(list(correct), list(length), list(finished), limit, **more)


@pytest.mark.parametrize("name", LENGTH_REWARDS)
def test_properties(name):
    scoped = {"scope": "correct"} if name in SCOPED else {}
    shaped = reward(name, **scoped)

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(responses, st.integers(1, 500), st.randoms(use_true_random=False))
    def holds(rows, length, random):
        rewards = shaped(of(rows))
        assert np.isfinite(rewards).all()
        assert (rewards >= BOUNDS[name][0] - 1e-12).all()
        assert (rewards <= BOUNDS[name][1] + 1e-12).all()
        order = list(range(len(rows)))
        random.shuffle(order)
        assert shaped(of([rows[i] for i in order])).tolist() == pytest.approx(
            rewards[order].tolist(), abs=1e-9
        )
        for (c1, n1, f1), r1 in zip(rows, rewards, strict=True):
            for (c2, n2, f2), r2 in zip(rows, rewards, strict=True):
                if c1 and c2 and f1 and f2 and n1 < n2 and name not in LONGER_MAY_EARN_MORE:
                    assert r1 >= r2 - 1e-12
        # A wrong response with another length, all else being equal.
        if (wrong := [i for i, row in enumerate(rows) if not row[0]]) and name not in (
            WRONG_MAY_DEPEND
        ):
            at = wrong[0]
            other = [*rows[:at], (False, length, rows[at][2]), *rows[at + 1 :]]
            assert shaped(of(other))[at] == pytest.approx(rewards[at])

    holds()


def test_every_reward_gives_one_for_each_response():
    some = group([1, 0, 1], [3, 4, 5], [1, 1, 0], 4, text=("a", "b", "c"), extra=PROFILED)
    assert len(components("reward")) >= 25
    for kind in components("reward").values():
        rewards = kind()(some)
        assert rewards.shape == (3,)
        assert rewards.dtype == np.float64
        assert (kind()(group([], [], [], 4, extra=PROFILED))).shape == (0,)


def test_needs_no_torch():
    code = (
        "import sys, megaprune.algorithms.rewards, megaprune.algorithms.registry\n"
        "from megaprune.algorithms.registry import components\n"
        "components('reward')\n"
        "heavy = {'torch', 'megatron', 'vllm', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
