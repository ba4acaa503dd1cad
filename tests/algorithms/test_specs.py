"""Algorithms from specs: presets and changes, chosen by name or file, checked at once."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from megaprune.algorithms.advantages import BatchStd, GroupMean, GroupStd
from megaprune.algorithms.algorithm import Algorithm, WeightedReward, describe_fields
from megaprune.algorithms.filters import KeepAll, NoSignal
from megaprune.algorithms.losses import DrGrpoLoss, GrpoLoss, SftLoss
from megaprune.algorithms.presets import PRESETS
from megaprune.algorithms.rewards.soft_overlong import SoftOverlong
from megaprune.algorithms.rewards.truncate import Truncate
from megaprune.algorithms.specs import merge_specs
from megaprune.errors import InputError


def test_presets_are_whole_and_survive_a_spec():
    for name, preset in PRESETS.items():
        algorithm = Algorithm.from_spec(name)
        assert Algorithm.from_spec({"preset": name}) == algorithm
        assert Algorithm.from_spec(algorithm.to_spec()) == algorithm
        assert preset.spec.keys() | {"length"} == algorithm.to_spec().keys()
    assert Algorithm.from_spec({}) == Algorithm.from_spec("grpo") == Algorithm()


def test_what_the_presets_are():
    truncate = (WeightedReward(Truncate()),)
    assert Algorithm.from_spec("grpo") == Algorithm(
        truncate, GroupStd(1e-6, 1), KeepAll(), GrpoLoss(0.2, 0.2, 0.0, 0.0, None), 1
    )
    assert Algorithm.from_spec("thinkprune") == Algorithm(
        truncate, GroupStd(), KeepAll(), GrpoLoss(kl_coef=0.001, entropy_coef=0.001)
    )
    assert Algorithm.from_spec("dler") == Algorithm(
        truncate, BatchStd(), NoSignal(2), GrpoLoss(0.2, 0.28)
    )
    assert Algorithm.from_spec("dr_grpo") == Algorithm(
        truncate, GroupMean(), KeepAll(), DrGrpoLoss(sequence_tokens=None)
    )


def test_fields_beside_a_preset():
    algorithm = Algorithm.from_spec(
        {
            "preset": "dler",
            "reward": {"name": "soft_overlong", "cache": 500},
            "loss": {"clip_ratio_low": 0.1},
            "filter": {"max_resample_rounds": 0},
            "num_minibatches": 4,
        }
    )
    assert algorithm == Algorithm(
        (WeightedReward(SoftOverlong(500)),), BatchStd(), NoSignal(0), GrpoLoss(0.1, 0.28), 4
    )


def test_another_name_brings_its_own_defaults():
    base = {"preset": "thinkprune", "advantage": {"ddof": 0}}
    changed = merge_specs(base, {"loss": {"name": "dr_grpo"}, "advantage": {"epsilon": 0.5}})
    algorithm = Algorithm.from_spec(changed)
    assert algorithm.loss == DrGrpoLoss()  # no kl_coef of the loss whose place it took
    assert algorithm.advantage == GroupStd(0.5, 0)
    again = merge_specs(base, {"loss": {"name": "grpo", "clip_ratio_high": 0.3}})
    assert Algorithm.from_spec(again).loss == GrpoLoss(0.2, 0.3, 0.001, 0.001)
    assert Algorithm.from_spec(merge_specs(base, "grpo")) == Algorithm()
    assert Algorithm.from_spec(merge_specs("dler", {})) == Algorithm.from_spec("dler")
    weighed = merge_specs(
        {"reward": {"name": "soft_overlong", "weight": 0.5}}, {"reward": {"cache": 9}}
    )
    assert Algorithm.from_spec(weighed).rewards == (WeightedReward(SoftOverlong(9), 0.5),)


def test_specs_are_left_as_they_are():
    spec = {"reward": {"name": "soft_overlong"}, "loss": {"kl_coef": 0.5}}
    before = repr((spec, PRESETS))
    Algorithm.from_spec(merge_specs(spec, {"reward": {"cache": 3}, "loss": {"kl_coef": 0.1}}))
    assert repr((spec, PRESETS)) == before


def test_names_alone_are_enough():
    algorithm = Algorithm.from_spec({"reward": "soft_overlong", "loss": "sft"})
    assert algorithm.rewards == (WeightedReward(SoftOverlong()),)
    assert algorithm.loss == SftLoss()
    assert Algorithm.from_spec({"rewards": ["truncate", "truncate"]}).labels == (
        "truncate",
        "truncate#2",
    )


def test_a_file_that_was_edited_is_read_again(own):
    def rewards():
        return Algorithm.from_spec({"reward": {"name": "own.py:Brevity"}}).to_spec()["rewards"]

    assert rewards() == [{"name": "own.py:Brevity", "scale": 10.0, "points": [], "scope": "all"}]
    (own / "own.py").write_text((own / "own.py").read_text().replace("= 10.0", "= 20.0"))
    assert rewards() == [{"name": "own.py:Brevity", "scale": 20.0, "points": [], "scope": "all"}]


BAD = [
    ("dlr", "algorithm='dlr'; did you mean dler?"),
    (3, "algorithm=3; expected a preset"),
    ({"los": {}}, "algorithm.los: there is no such field; did you mean algorithm.loss"),
    ({"num_minibatches": 0}, "algorithm.num_minibatches=0; expected a whole number, 1 or more"),
    ({"num_minibatches": "a"}, "algorithm.num_minibatches=a; expected a whole number"),
    ({"length": "answer"}, "algorithm.length='answer'; expected one of response, thought"),
    ({"reward": {"name": "truncat"}}, "algorithm.reward.name='truncat'; did you mean truncate?"),
    ({"reward": {"name": None}}, "algorithm.reward.name=None; expected one of"),
    ({"reward": 3}, "algorithm.reward=3; expected fields"),
    (
        {"reward": {"name": "soft_overlong", "cach": 3}},
        "algorithm.reward.cach: soft_overlong has no such field; did you mean cache?",
    ),
    (
        {"reward": {"cache": 3}},
        "algorithm.reward.cache: truncate has no such field; choose what has it with "
        "algorithm.reward.name=soft_overlong",
    ),
    (
        {"filter": {"max_resample_rounds": 3}},
        "algorithm.filter.max_resample_rounds: none has no such field; choose what has it with "
        "algorithm.filter.name=no_signal",
    ),
    ({"filter": {"x": 3}}, "algorithm.filter.x: none has no such field; it has none"),
    (
        {"loss": {"clip_ratio_low": 1.5}},
        "algorithm.loss.clip_ratio_low=1.5; expected 0 or more and less than 1",
    ),
    ({"loss": {"clip_ratio_low": "x"}}, "algorithm.loss.clip_ratio_low='x'; expected a number"),
    ({"loss": {"clip_ratio_low": "0.1"}}, "clip_ratio_low='0.1'; expected a number"),
    (
        {"loss": {"importance_cap": True}},
        "algorithm.loss.importance_cap=True; expected a number or null",
    ),
    ({"loss": {"importance_cap": 0}}, "algorithm.loss.importance_cap=0; expected more than 0"),
    ({"loss": {"kl_coef": float("nan")}}, "algorithm.loss.kl_coef=nan; expected a finite number"),
    ({"loss": {"kl_coef": None}}, "algorithm.loss.kl_coef=None; expected a number"),
    ({"advantage": {"ddof": 1.5}}, "algorithm.advantage.ddof=1.5; expected a whole number"),
    ({"rewards": []}, "algorithm.rewards=[]; expected a list such as"),
    ({"rewards": "truncate"}, "algorithm.rewards=truncate; expected a list such as"),
    ({"rewards": [{"weight": 1}]}, "algorithm.rewards[0]={'weight': 1}; expected a name"),
    ({"rewards": [3]}, "algorithm.rewards[0]=3; expected a name"),
    (
        {"rewards": [{"name": "truncate", "weight": "x"}]},
        "algorithm.reward.weight='x'; expected a number",
    ),
    (
        {"reward": {"weight": float("inf")}},
        "algorithm.reward.weight=inf; expected a finite number",
    ),
    (
        {"rewards": ["truncate", {"name": "soft_overlong", "cache": 0}]},
        "algorithm.rewards[1].cache=0; expected 1 or more",
    ),
    ({"reward": "truncate", "rewards": ["truncate"]}, "algorithm.reward and algorithm.rewards"),
    (
        {"reward": {"name": "no/such.py:Brevity"}},
        "algorithm.reward.name='no/such.py:Brevity': ",
    ),
    (
        {"loss": {"name": "no_module:Brevity"}},
        "algorithm.loss.name='no_module:Brevity': cannot import no_module, which is to hold a "
        "loss: ModuleNotFoundError: No module named 'no_module'",
    ),
    (
        {"advantage": {"name": "own.py:Rank"}},
        "algorithm.advantage.name='own.py:Rank': own.py has no 'Rank', which is to be an "
        "advantage; did you mean Ranks",
    ),
    (
        {"reward": {"name": "broken.py:Brevity"}},
        "algorithm.reward.name='broken.py:Brevity': cannot import broken.py, which is to hold a "
        "reward: RuntimeError: no such luck",
    ),
    ({"reward": {"name": "syntax.py:X"}}, "algorithm.reward.name='syntax.py:X': cannot import"),
    (
        {"reward": {"name": "own.py:TwoMore"}},
        "algorithm.reward.name='own.py:TwoMore': own.py:TwoMore.__call__(self, group, more, still) "
        "cannot be called with (group): missing a required argument: 'more'; expected a frozen "
        "dataclass with __call__(self, group)",
    ),
    ({"filter": {"name": "own.py:Brevity"}}, "cannot be called with (group, rewards)"),
    ({"reward": {"name": "own.py:NoCall"}}, "own.py:NoCall has no __call__"),
    ({"reward": {"name": "own.py:Bare"}}, "own.py:Bare is not a dataclass"),
    ({"reward": {"name": "own.py:function"}}, "own.py:function is a function; expected the class"),
    ({"reward": {"name": "own.py:Weighs"}}, "own.py:Weighs has a field 'weight'"),
    ({"reward": {"name": "own.py:Odd"}}, "types cannot be understood: NameError"),
    (
        {"reward": {"name": "own.py:Required"}},
        "algorithm.reward.scale must be given: own.py:Required has no default of it",
    ),
    (
        {"reward": {"name": "own.py:Brevity", "scale": 0}},
        "algorithm.reward.scale=0; expected more than 0",
    ),
    (
        {"reward": {"name": "own.py:Brevity", "points": [1, "a"]}},
        "algorithm.reward.points=[1, 'a']; expected a list of whole numbers",
    ),
    (
        {"reward": {"name": "own.py:Brevity", "scope": "some"}},
        "algorithm.reward.scope='some'; expected one of correct, all",
    ),
    (
        {"reward": {"name": "own.py:Unhappy", "low": 2.0}},
        "algorithm.reward: own.py:Unhappy: ValueError: low is above high",
    ),
]


@pytest.mark.parametrize(("spec", "message"), BAD, ids=[message[:50] for _, message in BAD])
def test_specs_that_cannot_be(own, spec, message):
    with pytest.raises(InputError) as raised:
        Algorithm.from_spec(spec)
    said = str(raised.value)
    assert message in said
    assert said.startswith("algorithm")
    assert "\n" not in said


def test_several_rewards_have_no_single_field():
    base = {"rewards": ["truncate", "soft_overlong"]}
    with pytest.raises(InputError, match="several rewards .truncate, soft_overlong."):
        merge_specs(base, {"reward": {"cache": 3}})
    assert merge_specs(base, {"reward": "truncate"})["rewards"] == [{"name": "truncate"}]


@dataclass(frozen=True)
class WrongNeeds:
    needs: Any = field(default=frozenset({"odl"}))

    def __call__(self, batch):
        return None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rewards": ()}, "algorithm.rewards=[]; expected one reward or more"),
        ({"rewards": (WeightedReward(GroupStd()),)}, None),
        ({"filter": Truncate()}, "algorithm.filter: none"),
        ({"loss": WrongNeeds()}, "algorithm.loss: its `needs` has odl; expected some of old"),
        ({"num_minibatches": True}, "algorithm.num_minibatches=True; expected a whole number"),
        ({"loss": lambda batch: None}, "algorithm.loss: function is not a dataclass"),
    ],
)
def test_parts_that_cannot_be(parts, message):
    if message is None:
        Algorithm(**parts)  # called alike, so that nothing can be said before it is called
        return
    with pytest.raises(InputError) as raised:
        Algorithm(**parts)
    assert message.removesuffix("none") in str(raised.value)


def test_fields_are_described():
    fields = list(describe_fields())
    by_name = {(d.name, d.component): d for d in fields}
    low = by_name["algorithm.loss.clip_ratio_low", "grpo"]
    assert low[1:3] == ("a number", 0.2)
    assert low.bounds == "0 or more and less than 1"
    assert low.doc
    assert by_name["algorithm.loss.importance_cap", "dr_grpo"].type == "a number or null"
    assert by_name["algorithm.reward.cache", "soft_overlong"].default == 1000
    assert by_name["algorithm.loss.name", ""].default == "grpo"
    assert all(d.doc for d in fields)
    assert not any(d.required for d in fields)
    assert {"algorithm", "algorithm.num_minibatches", "algorithm.filter.name"} <= {
        d.name for d in fields
    }
    assert "no_signal" in by_name["algorithm.filter.name", ""].doc
