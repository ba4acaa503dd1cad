"""A model's chat template is a stranger's program: it ends, and is named."""

import os
import time

import pytest

from megaprune.data import rendering, template_worker
from megaprune.data.rendering import ChatRenderer, render
from megaprune.data.tokenizer import load_tokenizer
from megaprune.errors import InputError
from megaprune.recipes.tiny_models import make_tiny

USER = [{"role": "user", "content": "1+1?"}]


def render_all(tokenizer, conversations, places):
    with ChatRenderer(tokenizer, "here") as renderer:
        return renderer.render(conversations, places)


MANY = "{% for i in range(99999) %}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(make_tiny(tmp_path_factory.mktemp("made") / "model"))


TEMPLATES = [
    "{% for m in messages %}\n  <{{ m.role }}>\n  {{- m['content'] | trim }}\n{% endfor %}\n",
    "{{ bos_token }}{{ messages | tojson(indent=2) }}{{ eos_token }}{{ pad_token }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ ns.n }} ü {{ tools }} {{ documents }}",
    "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}{{ m.content }}{{ x }}"
    "{% endgeneration %}{{ x }}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}",
    "{% macro f(a, b='ß') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(messages[-1].content) }}"
    "{{ 'x' if not undefined_name else 'y' }}{{ strftime_now('%Y')[:2] }}",
    "{{ messages[0].content.split('+') | join('-') | upper }}{% if tools is none %}none{% endif %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_text_is_that_of_transformers(tokenizer, template):
    tokenizer.chat_template = template
    conversations = [
        USER,
        [{"role": "system", "content": "Sei höflich. 😀"}, *USER],
        [{"role": "user", "content": "<b>\"'&\\ \n {{ 7 * 7 }} \ud83d"}],
    ]
    expected = [
        tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False)
        for c in conversations
    ]
    assert render_all(tokenizer, conversations, ["a", "b", "c"]) == expected


def test_many_conversations_in_order(tokenizer):
    tokenizer.chat_template = "{{ messages[0].content }}"
    texts = [f"{n} " + "x" * (n % 7) for n in range(300)]
    conversations = [[{"role": "user", "content": text}] for text in texts]
    assert render_all(tokenizer, conversations, texts) == texts


LOOPS = {
    "loops in loops": MANY * 4 + "{% endfor %}" * 4 + "a",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "a large power, again and again": MANY + "{% set x = 7 ** 99999 %}{% endfor %}a",
    "a pattern": "{{ ('a' * 40000) | replace('a', 'b' * 40000) }}",
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a recursive loop": "{% for a in [[[]]] recursive %}"
    + MANY * 3
    + "{% endfor %}" * 3
    + "{{ loop(a) }}{% endfor %}a",
    "sorting": MANY * 2 + "{% set x = range(99999) | sort | list %}" + "{% endfor %}" * 2 + "a",
    "a large word": "{{ 'a' * 10 ** 11 }}",
    "a word that doubles": "{% set n = namespace(x='ab') %}"
    + MANY
    + "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "a list that doubles": "{% set n = namespace(x=[1]) %}"
    + MANY
    + "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "a field": "{{ '%99999999999d' % 1 }}",
    "a wide field": "{{ 'a'.center(9999999999) }}",
    "a format": "{{ '{:>9999999999}'.format('a') }}",
    "a product of words": MANY + MANY + "aaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
    "joined": "{{ (['ab' * 1000] * 10 ** 7) | join }}",
    "just too long": "{{ 'a' * (2 ** 24 + 1) }}",
    "a range": "{{ range(10 ** 9) | list }}",
    "nested expressions": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested blocks": "{% if 1 %}" * 3000 + "a" + "{% endif %}" * 3000,
    "nested lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "out of the sandbox": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a file": "{% include '/etc/passwd' %}",
    "another exception": "{{ messages[0].content[99999999999999999999] ~ (1 // 0) }}",
    "an import": "{% import 'os' as os %}a",
}


@pytest.fixture
def soon(monkeypatch):
    """Less CPU time in the worker than anybody should wait for in a test."""
    worker = "import megaprune.data.template_worker as w; w.CPU_SECONDS = 0.5; w.main()"
    start = rendering.subprocess.Popen

    def quick(command, **options):
        assert command[1:] == ["-m", "megaprune.data.template_worker"]
        return start([command[0], "-c", worker], **options)

    monkeypatch.setattr(rendering.subprocess, "Popen", quick)


@pytest.mark.parametrize("name", LOOPS)
def test_templates_that_loop(tokenizer, soon, name):
    tokenizer.chat_template = LOOPS[name]
    began = time.monotonic()
    with pytest.raises(InputError, match=r"row 7, column prompt: the chat template of .*model"):
        render(tokenizer, USER, "row 7")
    assert time.monotonic() - began < 90


def test_the_conversation_is_named_that_it_loops_for(tokenizer, soon):
    loop = "{% if messages[0].content == '1+1?' %}" + MANY * 4 + "{% endfor %}" * 4 + "{% endif %}a"
    tokenizer.chat_template = loop
    harmless = [{"role": "user", "content": "2"}]
    places = [f"row {n}" for n in range(150)]
    with pytest.raises(InputError, match="^row 101, column prompt.* of CPU time"):
        render_all(tokenizer, [harmless] * 101 + [USER] + [harmless] * 48, places)


def test_all_prompts_together_are_bounded(tokenizer, monkeypatch):
    tokenizer.chat_template = "{{ 'a' * 1000 }}"
    monkeypatch.setattr(rendering, "_ALL_CHARACTERS", 10_000)
    monkeypatch.setattr(rendering, "_MEAN_CHARACTERS", 0)
    with pytest.raises(
        InputError, match="row 10, .* more than 10000 characters .* first 11 prompts"
    ):
        render_all(tokenizer, [USER] * 20, [f"row {n}" for n in range(20)])


def test_the_process_gets_no_secrets_and_is_gone_afterwards(tokenizer, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    started, start = [], rendering.subprocess.Popen

    def remember(*arguments, **options):
        assert "SOME_KEY" not in options["env"]
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(rendering.subprocess, "Popen", remember)
    tokenizer.chat_template = "a"
    assert render(tokenizer, USER, "here") == "a"
    assert len(started) == 1
    assert started[0].returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_limits_are_far_from_what_is_meant(tokenizer):
    """The longest templates that are in use have some 10,000 characters."""
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content | trim }}{% endfor %}" + "x" * 10**6
    )
    text = render(tokenizer, [{"role": "user", "content": "y" * 10**6}] * 3, "here")
    assert len(text) == 4 * 10**6
    assert template_worker.CPU_SECONDS >= 5
