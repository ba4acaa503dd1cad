"""Problems in a file that processes map: the same problems, in little memory, read once."""

import json
import os
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from megaprune.data import ProblemRow, load_tokenizer, on_node, read_problems, write_parquet
from megaprune.data.on_node import check_problems, read_problems_on_node
from megaprune.data.problems import DROP, make_problem_file
from megaprune.errors import InputError
from megaprune.recipes.tiny_models import make_tiny

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = make_tiny(tmp_path_factory.mktemp("made") / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return load_tokenizer(folder)


def row(text, gold="2", index=None, source="amc"):
    return ProblemRow(source, [{"role": "user", "content": text}], gold, index)


def file_of(tmp_path, rows):
    write_parquet(tmp_path / "p.parquet", rows)
    return tmp_path / "p.parquet"


def test_problems_by_place(tmp_path, tokenizer):
    """More of them than are in one part, with some left out."""
    texts = [f"{n} " + "ü" * (n % 5) + "x" * 200 * (n % 7 == 0) for n in range(2300)]
    path = file_of(tmp_path, [row(text, str(n)) for n, text in enumerate(texts)])
    problems = read_problems(path, tokenizer, 100).problems
    left = [n for n in range(2300) if n % 7]
    assert len(problems) == len(left)
    assert [(p.name, p.gold, p.prompt) for p in problems] == [
        (f"amc/{n}", str(n), f"<user>{texts[n]}") for n in left
    ]
    for place in (0, 1, 1000, 1500, -1):
        expected = f"<user>{texts[left[place]]}"
        problem = problems[place]
        assert problem.prompt == expected
        assert list(problem.tokens) == tokenizer(expected, add_special_tokens=False)["input_ids"]
        assert problem.messages == ({"role": "user", "content": texts[left[place]]},)
    assert problems[5:1300:400] == [problems[5], problems[405], problems[805], problems[1205]]
    with pytest.raises(IndexError):
        problems[len(left)]


DUPLICATES = [("1+1?", "2"), ("1+2?", "3"), ("1+1?", "2"), (" 1+1?\n", "2"), ("1+2?", "4")]


def test_duplicates_are_counted_and_dropped_by_choice(tmp_path, tokenizer):
    rows = [row(text, gold, n) for n, (text, gold) in enumerate(DUPLICATES)]
    path = file_of(tmp_path, [*rows, row("x" * 300, index=5), row("1+3?", "4", 6)])
    kept, left = (read_problems(path, tokenizer, 100, d) for d in ("keep", DROP))
    assert [p.name for p in kept.problems] == [f"amc/{n}" for n in (0, 1, 2, 3, 4, 6)]
    assert [p.name for p in left.problems] == ["amc/0", "amc/1", "amc/6"]
    for found in (kept, left):
        assert (found.too_long, found.duplicates, found.contradicting) == (1, 3, 1)
    assert left.problems[2].gold == "4"


def test_what_prompts_ask_for(tmp_path, tokenizer):
    texts = ['1+1? Put it after "####".', "1+2? Answer in \\boxed{}.", "1+3?", "1+4? End with ####"]
    path = file_of(tmp_path, [row(text, source=f"s{n % 2}") for n, text in enumerate(texts)])
    asked = read_problems(path, tokenizer, 100).asked_formats
    assert asked == {("s0", "####"): 1, ("s1", r"\boxed{}"): 1, ("s1", "####"): 1}


def test_a_chat_template_asks_too(tmp_path, tokenizer):
    folder = make_tiny(tmp_path / "model")
    words = "Put your final answer within \\\\boxed{}."
    (folder / "chat_template.jinja").write_text("{{ '" + words + "' }}{{ messages[0].content }}")
    path = file_of(tmp_path, [row('1+1? End with a line "Answer: N".')])
    assert read_problems(path, tokenizer, 100).asked_formats == {("amc", "Answer:"): 1}
    own = load_tokenizer(folder)
    assert read_problems(path, own, 100).asked_formats == {("amc", r"\boxed{}"): 1}


def test_rows_go_through_in_parts(tmp_path, tokenizer):
    """Python's memory at its peak does not grow with the rows, but for their names."""

    def peak(count):
        path = file_of(tmp_path, [row("x" * 80 + str(n)) for n in range(count)])
        tracemalloc.start()
        problems = read_problems(path, tokenizer, 100)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(problems.problems) == count
        return used

    peak(1100)
    small, large = peak(1100), peak(5500)
    assert large < small + 4400 * 600  # as objects, a problem here takes 4 kB
    assert small > 1 << 20


def test_many_rows_of_one_name(tmp_path, tokenizer):
    """Each took longer than the one before it."""
    path = file_of(tmp_path, [row(str(n), index=0) for n in range(20_000)])
    began = time.process_time()
    problems = read_problems(path, tokenizer, 100).problems
    assert time.process_time() - began < 30
    assert [problems[n].name for n in (0, 1, 19_999)] == ["amc/0", "amc/0#2", "amc/0#20000"]


OPEN = """
import json, sys
from megaprune.data.problems import ProblemFile
problems = ProblemFile(*json.loads(sys.argv[1])).open().problems
print(json.dumps([[p.name, p.prompt] for p in problems]))
"""


def test_another_process_maps_the_file(tmp_path, tokenizer):
    writer, file = make_problem_file(file_of(tmp_path, [row("1"), row("2")]), tokenizer, 100)
    arguments = json.dumps([file.path, file.key, file.too_long])
    done = subprocess.run(
        [sys.executable, "-c", OPEN, arguments], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [["amc/0", "<user>1"], ["amc/1", "<user>2"]]
    problems = file.open().problems
    del writer
    assert not os.path.exists(file.path)
    assert problems[1].prompt == "<user>2"  # it is mapped still


@pytest.fixture
def reads(monkeypatch):
    """Which files are read, and not found in the environment."""
    monkeypatch.delenv("MEGAPRUNE_PROBLEMS", raising=False)
    read, make = [], on_node.make_problem_file

    def remember(path, *arguments):
        read.append(path)
        return make(path, *arguments)

    monkeypatch.setattr(on_node, "make_problem_file", remember)
    return read


def test_a_job_takes_what_its_check_has_read(tmp_path, tokenizer, alone, reads):
    path = file_of(tmp_path, [row("1"), row("1"), row("2")])
    assert len(check_problems(path, tokenizer, 100).problems) == 3
    assert len(read_problems_on_node(path, tokenizer, 100, DROP).problems) == 2
    assert len(check_problems(path, tokenizer, 100).problems) == 3
    assert reads == [path]
    # Another limit, and other rows, are something else.
    assert len(read_problems_on_node(path, tokenizer, 7).problems) == 3
    write_parquet(path, [row("1")])
    assert len(read_problems_on_node(path, tokenizer, 100).problems) == 1
    assert reads == [path] * 3


def test_what_a_check_left_and_is_no_more(tmp_path, tokenizer, alone, reads, monkeypatch):
    """Of a process that has ended, whose number another may have; or of another machine."""
    path = file_of(tmp_path, [row("1")])
    check_problems(path, tokenizer, 100)
    (entry,) = json.loads(os.environ["MEGAPRUNE_PROBLEMS"])
    other = tmp_path / "other"
    other.write_bytes(np.arange(99).tobytes())
    stale = [entry | {"path": str(other)}, entry | {"path": "/proc/1/fd/99999"}]
    stale += [entry | {"machine": "elsewhere"}]
    monkeypatch.setenv("MEGAPRUNE_PROBLEMS", json.dumps(stale))
    assert read_problems_on_node(path, tokenizer, 100).problems[0].prompt == "<user>1"
    assert reads == [path] * 2


def test_no_room_for_the_file(tmp_path, tokenizer, disk, monkeypatch):
    import tempfile

    place = disk("size=40k")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    path = file_of(tmp_path, [row("x" * 80 + str(n)) for n in range(3000)])
    with pytest.raises(InputError, match=r"temporary file \(No space left.*TMPDIR"):
        read_problems(path, tokenizer, 100)


QWEN3 = (
    "{{ messages[0].content }}<a>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)


def test_thoughts_are_switched_by_the_template(tmp_path, alone, reads):
    folder = make_tiny(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(QWEN3)
    own = load_tokenizer(folder)
    path = file_of(tmp_path, [row("1+1?")])
    for wanted, end in ((None, ""), (True, ""), (False, "<think></think>")):
        prompt = f"1+1?<a>{end}"
        kwargs = {} if wanted is None else {"enable_thinking": wanted}
        messages = [{"role": "user", "content": "1+1?"}]
        assert prompt == own.apply_chat_template(messages, tokenize=False, **kwargs)
        for read in (read_problems, check_problems, read_problems_on_node):
            assert read(path, own, 100, enable_thinking=wanted).problems[0].prompt == prompt
    assert len(reads) == 3  # by the checks alone


def test_a_template_that_switches_nothing(tmp_path, tokenizer):
    path = file_of(tmp_path, [row("1+1?")])
    with pytest.raises(
        InputError, match=r"enable_thinking=false: the chat template of .*expected nu"
    ):
        read_problems(path, tokenizer, 100, enable_thinking=False)
