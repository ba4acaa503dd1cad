"""Prompts to the byte, and templates that are refused."""

import json
from pathlib import Path

import pytest
import yaml

from megaprune.data.instructions import BOX, asked_format
from megaprune.data.templates import TEMPLATES, load_template
from megaprune.errors import InputError
from megaprune.grading.find import last_box
from megaprune.grading.thought import THOUGHTS

GOLDEN = Path(__file__).parent / "golden"
PROBLEM = "Let $S = \\{1, 2\\}$ and $f(x) = \\frac{x}{{2}}$.\nWhat is {limit}, {problem} and {}?"
GOOD = {
    "system": None,
    "problem": "{problem}\n\nGive \\boxed{answer}, $\\frac{1}{\\sqrt{2}}$ or \\{1\\}.",
    "limit": " {limit} tokens.",
    "thought": {"open": "<t>", "close": "</t>"},
    "early_exit": "\n",
}


def write(folder, changes=None, without=()):
    content = {k: v for k, v in (GOOD | (changes or {})).items() if k not in without}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("family", TEMPLATES)
def test_prompts_are_the_golden_ones(family):
    made = {str(limit): load_template(family).messages(PROBLEM, limit) for limit in (None, 4000)}
    golden = (GOLDEN / f"{family}.json").read_bytes()
    assert (json.dumps(made, indent=2) + "\n").encode() == golden


@pytest.mark.parametrize("family", ["deepseek", "qwen"])
def test_the_limit_is_in_the_system_text_alone(family):
    without, with_limit = (load_template(family).messages("1+1?", n) for n in (None, 4321))
    assert with_limit[1] == without[1]
    assert with_limit[0]["content"].startswith(without[0]["content"])
    assert "4321 tokens" in with_limit[0]["content"]


def test_without_a_system_text_the_limit_is_in_the_users():
    (message,) = load_template("plain").messages("1+1?", 4321)
    assert message["role"] == "user"
    assert message["content"].startswith("1+1?\n\n")
    assert "4321 tokens" in message["content"]
    assert load_template("plain").messages("1+1?", None) == [{"role": "user", "content": "1+1?"}]


def test_ends_of_a_thought():
    """What budget forcing puts behind a thought is part of the method (arXiv 2504.01296)."""
    found = {
        family: template.end_of_thought + template.early_exit
        for family in TEMPLATES
        for template in [load_template(family)]
    }
    assert found["deepseek"] == "</think>\n\n**Final Answer:**\n\n"
    assert found["qwen"] == found["qwen3"] == "</think>\n\nThe final answer is"
    assert found["marco"] == "</Thought>\n\n<Output>\nThe final answer is"
    assert found["s1"] == "<|im_start|>answer\nFinal Answer:"
    assert found["qwq_preview"] == "\n\nThe final answer is"


@pytest.mark.parametrize(
    ("family", "thought"),
    [
        ("deepseek", "think"), ("qwen", "think"), ("qwen3", "qwen3"), ("marco", "marco"),
        ("s1", "s1"), ("qwq_preview", "none"), ("qwq_preview", "qwen3"),
    ],
)  # fmt: skip
def test_what_a_family_is_asked_to_write_is_what_its_grading_reads(family, thought):
    """An answer in the form that the prompt describes is right; no family earns 0 for ever."""
    template, tags = load_template(family), load_template(family).thought
    response = f"{tags.open} 1 + 1 {tags.close}" if tags else "1 + 1."
    response += template.early_exit + " \\boxed{2}."
    assert last_box(THOUGHTS[thought].answer(response)) == "2"
    prompt = " ".join(message["content"] for message in template.messages("1+1?", None))
    assert asked_format(prompt) == BOX


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_prompt_that_asks_for_speed(family):
    """The words alone come behind the user's message (arXiv 2501.12570)."""
    template = load_template(family)
    usual, fast = (t.messages(PROBLEM, 4000) for t in (template, template.asking_for_speed()))
    assert fast[:-1] == usual[:-1]
    notice = "" if template.system else template.limit.replace("{limit}", "4000")
    asked = usual[-1]["content"].removesuffix(notice) + template.fast + notice
    assert fast[-1] == {"role": "user", "content": asked}


def test_a_template_without_words_for_speed(tmp_path):
    with pytest.raises(InputError, match="no key fast; add the text that asks for speed"):
        load_template(write(tmp_path)).asking_for_speed()
    own = load_template(write(tmp_path, {"fast": "\nQuick!"})).asking_for_speed()
    assert own.messages("1+1?", None)[0]["content"].endswith("\\{1\\}.\nQuick!")


def test_a_template_of_ones_own(tmp_path):
    (message,) = load_template(write(tmp_path)).messages("{limit}?", 7)
    assert message["content"] == (
        "{limit}?\n\nGive \\boxed{answer}, $\\frac{1}{\\sqrt{2}}$ or \\{1\\}. 7 tokens."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem": "no place"}, "key problem: 'no place' lacks {problem}"),
        ({"limit": "no place"}, "key limit: 'no place' lacks {limit}"),
        ({"problem": "{problem} {question}"}, "key problem: '{question}' stands for nothing"),
        ({"limit": "{limit} {problem}"}, "key limit: '{problem}' stands for nothing"),
        ({"limit": "{{limit}}"}, "key limit: '{}' stands for nothing"),
        ({"system": "at most {limit}"}, "key system: '{limit}' stands for nothing"),
        ({"problem": "{problem} }"}, "key problem: '}' stands for nothing"),
        ({"problem": "{problem} \\boxed{"}, "key problem: '{' stands for nothing"),
        ({"thought": {"open": "{x}", "close": "b"}}, "key thought.open: '{x}' stands for nothing"),
        ({"problem": None}, "key problem: None (NoneType); expected text"),
        ({"problem": ["a"]}, "key problem: ['a'] (list); expected text"),
        ({"system": ""}, "key system: empty"),
        ({"system": 5}, "key system: 5 (int)"),
        ({"thought": "<t>"}, "key thought: '<t>'; expected a mapping of open, close"),
        ({"thought": {"open": "a"}}, "key thought: the key close is missing"),
        ({"thought": {"open": "a", "close": ""}}, "key thought.close: empty"),
        (
            {"early_exit": {"at_limit": ""}},
            "key early_exit: {'at_limit': ''} (dict); expected text",
        ),
        ({"sistem": "a"}, "there is no key 'sistem'; expected system, problem, limit"),
    ],
)
def test_refused(tmp_path, changes, said):
    path = write(tmp_path, changes)
    with pytest.raises(InputError) as error:
        load_template(path)
    assert path in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_key(tmp_path, key):
    with pytest.raises(InputError, match=f"mine.yaml: the key {key} is missing"):
        load_template(write(tmp_path, without=[key]))


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="absent.yaml cannot be read: No such file"):
        load_template(str(tmp_path / "absent.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match="bad.yaml is no YAML"):
        load_template(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(InputError, match="expected a mapping of system, problem"):
        load_template(str(tmp_path / "list.yaml"))
    with pytest.raises(InputError, match="no template 'deepsek'; did you mean deepseek?"):
        load_template("deepsek")


def test_a_budget_is_said_where_the_template_says_how(tmp_path):
    for family in TEMPLATES:
        template = load_template(family)
        without, said = template.messages("1+1?", None), template.messages("1+1?", None, 77)
        assert ["77 tokens" in message["content"] for message in said] == [True, False][: len(said)]
        assert said[0]["content"].startswith(without[0]["content"])
    own = load_template(write(tmp_path, {"budget": " Think for {budget} tokens."}))
    assert own.messages("1+1?", None, 5)[-1]["content"].endswith(" Think for 5 tokens.")
    with pytest.raises(InputError, match="the template has no key budget"):
        load_template(write(tmp_path)).messages("1+1?", None, 5)
    with pytest.raises(InputError, match="a budget of 0 tokens"):
        own.messages("1+1?", None, 0)
    with pytest.raises(InputError, match=r"key budget: 'soon' lacks \{budget\}"):
        load_template(write(tmp_path, {"budget": "soon"}))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_above_0(limit):
    with pytest.raises(InputError, match=f"a limit of {limit} tokens"):
        load_template("plain").messages("1+1?", limit)
