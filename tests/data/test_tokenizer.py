"""Tokenizers of model folders."""

import json
import shutil

import pytest

from megaprune.data.rendering import render
from megaprune.data.tokenizer import check_template, load_tokenizer
from megaprune.errors import InputError
from megaprune.recipes.tiny_models import make_tiny

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role not in ['system', 'user'] %}{{ raise_exception('no role ' + m.role) }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)
USER = [{"role": "user", "content": "1+1?"}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("made") / "model")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "model")


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_from_either_file(folder, where):
    if where.endswith("jinja"):
        (folder / where).write_text(TEMPLATE)
    else:
        config = json.loads((folder / where).read_text())
        (folder / where).write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    tokenizer = load_tokenizer(folder)
    check_template(tokenizer)
    assert render(tokenizer, USER, "here") == "<user>1+1?<answer>"


def test_text_comes_back(folder):
    tokenizer = load_tokenizer(folder)
    text = "Löse x² + 1 = 0\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode())  # the tiny tokenizer has one token for each byte
    assert tokenizer.decode(ids) == text


def test_no_template(folder):
    with pytest.raises(
        InputError, match=r"no chat template.*chat_template\.jinja.*tokenizer_config\.json"
    ):
        check_template(load_tokenizer(folder))


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*nowhere; expected"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_model_without_its_tokenizer(folder):
    # Transformers makes an empty tokenizer of this.
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer: none of tokenizer\.json.*copy"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"model": '),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"added_tokens": [], "model": {"type": "BPE", "vocab": 3}}'),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[1]"),
    ],
)
def test_broken_files(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=r"(?s)the tokenizer in .*model cannot be read .*copy"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "name",
    ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
     "additional_chat_templates/tool.jinja", "config.json"],
)  # fmt: skip
def test_links_out_of_the_folder(folder, tmp_path, name):
    """What they lead to would be in prompts, and in all that is made of them."""
    (tmp_path / "secret").write_text("{}")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../" * (1 + name.count("/")) + "secret")
    assert (folder / name).read_text() == "{}"
    with pytest.raises(InputError, match=f"{name} is a link that leads out of .*model"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (TEMPLATE, [{"role": "critic", "content": "x"}], r"refuses .*\['critic'\].*no role critic"),
        ("{{ messages[1].content.strip() }}", USER, r"refuses .*no element 1"),
        ("{{ messages[0].content + 1 }}", USER, "refuses .*TypeError"),
        ("{{ messages", USER, "refuses .*TemplateSyntaxError"),
        ("{% if 0 %}{% endif %}", USER, "makes no text"),
    ],
)
def test_templates_that_refuse(folder, template, messages, says):
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=rf"a\.parquet, row 7, column prompt: .*{says}.*fix"):
        render(tokenizer, messages, "a.parquet, row 7")
