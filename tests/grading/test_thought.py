"""Thoughts as families of models mark them, and the answer behind them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaprune.grading import GRADERS, Pool
from megaprune.grading.graders import ALL
from megaprune.grading.thought import THOUGHTS, thought_at_end


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),  # the template began the thought
        ("<think></think>b", "b"),
        ("</think>", ""),
        ("a</think>b</think>c", "c"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("no tags", None),
        ("", None),
        ("<think>a", None),
        ("a</think>b<think>c", None),
        ("a</think", None),
    ],
)
def test_think(response, answer):
    assert THOUGHTS["think"].answer(response) == answer


BOX = r"\boxed{33}"
S1, ANSWER = "<|im_start|>think\n", "<|im_start|>answer\n"
BEGIN, END = "<|begin_of_thought|>", "<|end_of_thought|>"
SOLUTION, DONE = "<|begin_of_solution|>", "<|end_of_solution|>"

RESPONSES = [
    ("qwen3", f"<think>hm</think>{BOX}", "right"),
    ("qwen3", f"<think>\n\n</think>\n\n{BOX}", "right"),  # as it writes behind /no_think
    ("qwen3", f"So {BOX}", "right"),  # the prompt has closed the thought
    ("qwen3", f"<think>{BOX}", "thought not closed"),
    ("qwen3", f"So {BOX}<think>hm", "thought not closed"),
    ("marco", f"<Thought>hm</Thought>\n\n<Output>\nSo {BOX}.\n</Output>", "right"),
    ("marco", f"<Thought>\\boxed{{1}}</Thought><Output>{BOX}", "right"),
    ("marco", f"<Thought>hm</Thought>{BOX}", "right"),
    ("marco", f"<Thought>hm</Thought><Output>33</Output>{BOX}", "no answer"),
    ("marco", f"<Thought>hm</Thought>{BOX}<Output>33</Output>", "no answer"),
    ("marco", f"<Thought>{BOX}", "thought not closed"),
    ("marco", f"<think>hm</think>{BOX}", "thought not closed"),
    ("s1", f"{S1}hm {ANSWER}So {BOX}", "right"),
    ("s1", f"{S1}\\boxed{{1}}{ANSWER}Final Answer: {BOX}", "right"),
    ("s1", f"{S1}{BOX}{ANSWER}So 33.", "no answer"),
    ("s1", f"{S1}{BOX}", "thought not closed"),
    ("s1", BOX, "thought not closed"),
    ("openthinker", f"{BEGIN}hm{END}\n\n{SOLUTION}\n{BOX}\n{DONE}", "right"),
    ("openthinker", f"{BEGIN}hm{END}{SOLUTION}33{DONE}{BOX}", "no answer"),
    ("openthinker", f"{BEGIN}{BOX}{DONE}", "thought not closed"),
    ("none", f"First \\boxed{{1}}, then {BOX}", "right"),
    ("none", f"<think>{BOX}", "right"),
    ("none", f"{BOX} no, \\boxed{{34}}", "wrong"),
    ("none", "33", "no answer"),
    ("think", f"<Thought>hm</Thought>{BOX}", "thought not closed"),
]


@pytest.mark.parametrize(("thought", "response", "why"), RESPONSES)
def test_families(thought, response, why):
    strict = GRADERS["strict"]
    assert strict("33", response, True, ALL, THOUGHTS[thought]).why == why
    assert strict("33", response, False, ALL, THOUGHTS[thought]).why == "cut off"


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (f"no thought {BOX}", "right"),
        (f"<think>not closed {BOX}", "right"),
        (f"<think>{BOX}</think> So 33.", "right"),
        (f"{BOX} no, \\boxed{{34}}", "wrong"),
        ("The answer is 33", "no answer"),
        (r"\boxed{33", "no answer"),
        (r"\boxed{33.001}", "wrong"),  # exact, where `lenient` has tolerances
        (r"\boxed{3300}", "wrong"),
    ],
)
@pytest.mark.parametrize("thought", ["think", "marco", "none"])
def test_the_last_box_of_a_whole_response(response, why, thought):
    grader = GRADERS["last_box"]
    assert grader("33", response, True, ALL, THOUGHTS[thought]).why == why
    assert grader("33", response, False, ALL, THOUGHTS[thought]).why == "cut off"


def test_a_pool_grades_by_the_family_of_the_model():
    with Pool({}, "strict", thought="marco") as pool:
        pool.submit(1, "", "33", f"<Thought>hm</Thought><Output>{BOX}</Output>", True)
        pool.submit(2, "", "33", f"<think>hm</think>{BOX}", True)
        verdicts = pool.results()
    assert [verdicts[key].why for key in (1, 2)] == ["right", "thought not closed"]


@pytest.mark.parametrize("name", THOUGHTS)
@pytest.mark.parametrize("piece", ["<think>", "</think>", "<Thought></Thought>", "<Output>", "a"])
def test_a_megabyte_is_read_in_a_second(name, piece):
    begin = time.process_time()
    THOUGHTS[name].answer(piece * (1_000_000 // len(piece)))
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    ("prompt", "end"),
    [
        ("<|im_start|>assistant\n<think>\n", ("<think>", False)),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ("</think>", True)),
        ("Say <think>.<|im_end|>\n<|im_start|>assistant\n", None),
        ("assistant\n<Thought>", ("<Thought>", False)),
        ("", None),
    ],
)
def test_how_a_prompt_ends(prompt, end):
    assert thought_at_end(prompt) == end


@pytest.mark.parametrize(
    ("family", "tokens", "count"),
    [
        ("think", ["<think>", "a", "b", "</think>", "c"], 4),
        ("think", ["a</th", "ink>\n\n", "c"], 2),  # the token that completes the mark counts
        ("think", ["</think>"], 1),
        ("think", ["<think>", "a", "b"], None),
        ("think", ["a", "</think>", "b", "<think>", "c"], None),
        ("qwen3", ["just", " this"], 0),
        ("none", ["just", " this"], 0),
        ("marco", ["<Thought>", "a", "</Thought>", "<Output>", "b", "</Output>"], 3),
    ],
)
def test_tokens_of_a_thought(family, tokens, count):
    assert THOUGHTS[family].count_tokens(tokens, "".join(tokens), "".join) == count


@settings(deadline=None, database=None)
@given(st.data())
def test_tokens_of_a_thought_are_those_up_to_its_mark(data):
    pieces = st.text(alphabet="ab é\n", min_size=1, max_size=3)
    thought, rest = (data.draw(st.lists(pieces, max_size=200)) for _ in range(2))
    text = "".join(thought) + "</think>" + "".join(rest)
    cuts = data.draw(st.sets(st.integers(1, max(len(text) - 1, 1))))
    edges = [0, *sorted(cuts), len(text)]
    tokens = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    end = text.index("</think>") + len("</think>")
    expected = next(n for n in range(1, len(tokens) + 1) if len("".join(tokens[:n])) >= end)
    assert THOUGHTS["think"].count_tokens(tokens, text, "".join) == expected
