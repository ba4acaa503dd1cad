"""What a judge is asked, and what it may reply."""

import json
import random

import pytest

from megaprune.analyze.judge import (
    BEHAVIOURS,
    MalformedReply,
    ThoughtPhase,
    messages,
    read_reply,
    reply_schema,
    steps_of,
    thought_digest,
)
from megaprune.analyze.thoughts import Thought

NAMES = list(BEHAVIOURS)


def phases(*triples):
    return json.dumps({"phases": [{"behaviour": b, "first": i, "last": j} for b, i, j in triples]})


def test_the_question():
    asked = messages(Thought(("a", "b"), "What is 2+2?", ("It is 4.", "Check:\n4."), 5, True))
    assert [message["role"] for message in asked] == ["system", "user"]
    for number, name in enumerate(NAMES, 1):
        assert f"{number}. {name}: " in asked[0]["content"]
    assert "What is 2+2?" in asked[1]["content"]
    assert "steps 1 to 2\n\n[1] It is 4.\n\n[2] Check:\n4." in asked[1]["content"]


def test_a_question_says_what_was_wrong():
    thought = Thought(("a", "b"), "?", ("1",), 5, True)
    again = [messages(thought, faults)[1]["content"] for faults in ((), ("gap",), ("gap", "gap"))]
    assert len(set(again)) == 3
    assert again[2].startswith(again[0])
    assert again[2].endswith("gap; gap")


def test_a_digest_is_of_what_the_judge_sees():
    one = Thought(("a", "b"), "?", ("1", "2"), 5, True)
    assert thought_digest(one) == thought_digest(Thought(("c", "d"), "?", ("1", "2"), 6, False))
    for other in (("1 2",), ("1", "3"), ("2", "1")):
        assert thought_digest(one) != thought_digest(Thought(("a", "b"), "?", other, 5, True))


@pytest.mark.parametrize(
    "text",
    [
        phases((1, 1, 2), (5, 3, 3), (10, 4, 4)),
        phases((10, 4, 4), (1, 1, 2), (5, 3, 3)),
        "<think>{not this}</think>Here it is:\n```json\n"
        + phases((1, 1, 2), (5, 3, 3), (10, 4, 4))
        + "\n```\nDone {x}.",
        'Of the form {"behaviour": 1}: ' + phases((1, 1, 2), (5, 3, 3), (10, 4, 4)),
    ],
)
def test_well_formed(text):
    found = read_reply(text, 4)
    assert found == [
        ThoughtPhase(NAMES[0], 1, 2),
        ThoughtPhase(NAMES[4], 3, 3),
        ThoughtPhase(NAMES[9], 4, 4),
    ]
    assert steps_of(found) == {NAMES[0]: 2, NAMES[4]: 1, NAMES[9]: 1}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "no JSON"),
        ("I cannot do that.", "no JSON"),
        ('{"phases": [{"behaviour": 1, "first": 1, "la', "no JSON"),
        ('{"phases": [{"behaviour": 1, "first": 1, "last": 4}', "wrong form"),  # the inner object
        ("{" * 20_000, "no JSON"),
        ('{"phase": []}', "wrong form"),
        ('{"phases": {"behaviour": 1, "first": 1, "last": 4}}', "wrong form"),
        ('{"phases": [[1, 1, 4]]}', "wrong form"),
        ('{"phases": [{"behaviour": 1, "first": 1}]}', "wrong form"),
        ('{"phases": [{"behaviour": "1", "first": 1, "last": 4}]}', "wrong form"),
        ('{"phases": [{"behaviour": 1, "first": true, "last": 4}]}', "wrong form"),
        ('{"phases": [{"behaviour": 1, "first": 1.0, "last": 4}]}', "wrong form"),
        (phases((11, 1, 4)), "unknown behaviour"),
        (phases((0, 1, 4)), "unknown behaviour"),
        (phases((1, 1, 5)), "no such steps"),
        (phases((1, 0, 4)), "no such steps"),
        (phases((1, 1, 2), (2, 4, 3)), "no such steps"),
        (phases((1, 1, 2), (2, 2, 4)), "overlap"),
        (phases((1, 1, 4), (2, 1, 4)), "overlap"),
        (phases((1, 1, 1), (2, 3, 4)), "gap"),
        (phases((1, 2, 4)), "gap"),
        (phases((1, 1, 3)), "gap"),
        (phases(), "gap"),
    ],
)
def test_malformed(text, kind):
    with pytest.raises(MalformedReply) as error:
        read_reply(text, 4)
    assert error.value.kind == kind


def test_any_division_is_read_back():
    rng = random.Random(0)
    for _ in range(200):
        steps = rng.randint(1, 40)
        by_step = [rng.randint(1, 10) for _ in range(steps)]
        starts = [i for i in range(steps) if i == 0 or by_step[i] != by_step[i - 1]]
        parts = [
            (by_step[begin], begin + 1, end)
            for begin, end in zip(starts, [*starts[1:], steps], strict=True)
        ]
        rng.shuffle(parts)
        counts = steps_of(read_reply(phases(*parts), steps))
        assert counts == {NAMES[b - 1]: by_step.count(b) for b in set(by_step)}


def test_the_schema_names_what_is_checked():
    found = reply_schema(7)["properties"]["phases"]
    assert (found["minItems"], found["maxItems"]) == (1, 7)
    inner = found["items"]["properties"]
    assert inner["behaviour"]["enum"] == [*range(1, 11)]
    assert inner["first"] == inner["last"] == {"type": "integer", "minimum": 1, "maximum": 7}
