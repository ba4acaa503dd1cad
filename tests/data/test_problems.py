"""Data sets in a model's chat template."""

import pytest

from megaprune.data import ProblemRow, load_tokenizer, read_problems, write_parquet
from megaprune.errors import InputError
from megaprune.recipes.tiny_models import make_tiny

# The second user message in a row is refused, as strict models' templates do.
TEMPLATE = (
    "{% for m in messages %}"
    "{% if loop.previtem is defined and loop.previtem.role == m.role %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[think]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = make_tiny(tmp_path_factory.mktemp("made") / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return load_tokenizer(folder)


def user(text):
    return {"role": "user", "content": text}


def row(text="1+1?", index=None, source="amc"):
    return ProblemRow(source, [user(text)], "2", index)


def read(tmp_path, tokenizer, rows, max_prompt_length=100):
    write_parquet(tmp_path / "train.parquet", rows)
    return read_problems(tmp_path / "train.parquet", tokenizer, max_prompt_length)


def test_a_problem_as_the_model_reads_it(tmp_path, tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, user("1+1?")]
    found = read(tmp_path, tokenizer, [ProblemRow("amc", messages, "2", 7)])
    assert found.too_long == 0
    (problem,) = found.problems
    assert problem.name == "amc/7"
    assert problem.data_source == "amc"
    assert problem.messages == tuple(messages)
    assert problem.gold == "2"
    assert problem.prompt == "[system]Be brief.[user]1+1?[think]"
    # One token for each byte, none before or behind.
    assert len(problem.tokens) == len(problem.prompt)
    assert tokenizer.decode(problem.tokens) == problem.prompt


def test_only_the_template_adds_special_tokens(tmp_path, tokenizer):
    """As with tokenizers that put a token before any text, which the template has already."""
    from tokenizers.processors import TemplateProcessing

    backend = tokenizer.backend_tokenizer
    kept = backend.post_processor
    end = ("<|endoftext|>", 0)
    backend.post_processor = TemplateProcessing(single=f"{end[0]} $A", special_tokens=[end])
    try:
        assert tokenizer("x")["input_ids"][0] == 0
        (problem,) = read(tmp_path, tokenizer, [row()]).problems
    finally:
        if kept is None:
            backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
        else:
            backend.post_processor = kept
    assert 0 not in problem.tokens


def test_long_prompts_are_left_out_and_counted(tmp_path, tokenizer):
    # "[user]" and "[think]" are 13 tokens.
    rows = [row("x" * n, n) for n in (5, 8, 7, 6, 100)]
    found = read(tmp_path, tokenizer, rows, max_prompt_length=20)
    assert [p.name for p in found.problems] == ["amc/5", "amc/7", "amc/6"]
    assert [len(p.tokens) for p in found.problems] == [18, 20, 19]
    assert found.too_long == 2


def test_all_too_long(tmp_path, tokenizer):
    says = r"all 2 prompts of .*max_prompt_length=10 tokens; the shortest has 17: raise"
    with pytest.raises(InputError, match=says):
        read(tmp_path, tokenizer, [row(), row("1+1+1?")], max_prompt_length=10)
    with pytest.raises(InputError, match="max_prompt_length=0 tokens; expected 1 or more"):
        read(tmp_path, tokenizer, [row()], max_prompt_length=0)


def test_names_are_apart_and_stay(tmp_path, tokenizer):
    rows = [row(index=1), row(index=1), row(), row(source="amc/1#2", index=1), row(index=1)]
    rows += [row(index=2), row(source="b", index=1), row("x" * 90, 9), row(index=9)]
    expected = ["amc/1", "amc/1#2", "amc/2", "amc/1#2/1", "amc/1#3", "amc/2#2", "b/1"]
    names = [p.name for p in read(tmp_path, tokenizer, rows).problems]
    # The row that is left out keeps its name: names do not hang on max_prompt_length.
    assert names == [*expected, "amc/9#2"]
    longer = [p.name for p in read(tmp_path, tokenizer, rows, max_prompt_length=200).problems]
    assert longer == [*expected, "amc/9", "amc/9#2"]
    # Nor on rows behind them.
    assert [p.name for p in read(tmp_path, tokenizer, rows[:3]).problems] == expected[:3]


def test_rows_without_an_index_are_numbered_through_the_folder(tmp_path, tokenizer):
    write_parquet(tmp_path / "a.parquet", [row(), row()])
    write_parquet(tmp_path / "b.parquet", [row()])
    found = read_problems(tmp_path, tokenizer, 100)
    assert [p.name for p in found.problems] == ["amc/0", "amc/1", "amc/2"]


def test_a_name_that_looks_like_a_copy(tmp_path, tokenizer):
    write_parquet(tmp_path / "train.parquet", [row(index=1), row(index=1)])
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "train.parquet").to_pylist()
    for stored, index in zip(table, ["1#2", "1"], strict=True):
        stored["extra_info"]["index"] = index
    pq.write_table(pa.Table.from_pylist([*table, table[1]]), tmp_path / "train.parquet")
    found = read_problems(tmp_path / "train.parquet", tokenizer, 100)
    assert [p.name for p in found.problems] == ["amc/1#2", "amc/1", "amc/1#3"]


def test_a_row_that_the_template_refuses(tmp_path, tokenizer):
    rows = [row(), ProblemRow("amc", [user("1+1?"), user("2+2?")], "2")]
    says = r"train\.parquet, row 1, column prompt: .*\['user', 'user'\].*roles must alternate"
    with pytest.raises(InputError, match=says):
        read(tmp_path, tokenizer, rows)


def test_a_tokenizer_without_a_template(tmp_path):
    plain = load_tokenizer(make_tiny(tmp_path / "model"))
    with pytest.raises(InputError, match=r"model has no chat template; put one into"):
        read(tmp_path, plain, [row()])


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt"])
def test_a_tokenizer_that_is_too_large_to_be_one(tmp_path, name):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "corpus.json").write_text("{}")
    for path in (tmp_path / "corpus.json", tmp_path / name):
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate((256 << 20) + 1)
    with pytest.raises(InputError, match=rf"{name} has 268435457 bytes; expected 268435456"):
        load_tokenizer(tmp_path)
