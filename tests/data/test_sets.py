"""The table of sets, years of competitions, OlympiadBench's answers."""

import json

import pytest

from megaprune.cli.main import main
from megaprune.data.parquet import read_parquet
from megaprune.data.sets import SETS, graders, olympiad_gold, year_of
from megaprune.errors import InputError
from megaprune.grading import GRADERS


def test_the_table():
    assert set(SETS) == {
        "numina_amc_aime", "aime_1983_2021", "aime22_23", "aime24", "aime25", "amc23", "math500",
        "math_train", "gsm8k", "gsm8k_train", "olympiadbench", "gaokao2023", "math_o1_pruner",
    }  # fmt: skip
    for name, each in SETS.items():
        assert each.name == name
        assert each.repository.count("/") == 1
        assert each.grader in GRADERS
        assert each.licence
    training = {"numina_amc_aime", "aime_1983_2021", "math_train", "gsm8k_train"}
    assert {name for name, each in SETS.items() if each.training} == training
    assert graders() == {"olympiadbench": "olympiad"}


def test_samples_are_thinkprunes():
    """Arxiv 2504.01296: 64 for the small sets, 16 for the others."""
    thinkprune = {"aime24": 64, "amc23": 64, "math500": 16, "olympiadbench": 16, "aime22_23": 16}
    assert {name: SETS[name].samples for name in thinkprune} == thinkprune


def test_o1_pruners_sets_and_the_one_that_is_not_on_the_hub(tmp_path, capsys):
    """Arxiv 2501.12570; rows as its repository has them."""
    three = ("math_o1_pruner", "gsm8k", "gaokao2023")
    assert [SETS[name].samples for name in three] == [16, 4, 16]
    assert [SETS[name].on_hub for name in three] == [False, True, True]
    out = tmp_path / "math.parquet"
    assert main(["data", "math_o1_pruner", "--out", str(out)]) == 1
    assert "is data/dataset/math_test.json in github.com/StarDewXXX/O1-Pruner" in (
        capsys.readouterr().err
    )
    rows = [
        {"problem": "1+1?", "ground_truth_solution": "It is 2.", "ground_truth_answer": "2"},
        {"problem": "What?", "ground_truth_solution": "", "ground_truth_answer": "\\frac{1}{2}"},
    ]
    source = tmp_path / "math_test.json"
    source.write_text(json.dumps(rows))
    assert main(["data", "math_o1_pruner", "--input", str(source), "--out", str(out)]) == 0
    assert [(row.data_source, row.gold) for _, row in read_parquet(out)] == [
        ("math_o1_pruner", "2"), ("math_o1_pruner", "\\frac{1}{2}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "year"),
    [
        ({"year": 1983}, 1983),
        ({"Year": "2021", "ID": "1990-5"}, 2021),
        ({"url": "https://x.org/wiki/index.php/2022_AIME_I_Problems/Problem_1"}, 2022),
        ({"id": "aime-2024-1-1"}, 2024),
        ({"ID": "1985-14"}, 1985),
        ({"data_source": "AIME23"}, 2023),
        ({"data_source": "AIME"}, None),
        ({"id": "12024"}, None),
        ({"id": 5, "year": None, "problem": "In 2024, ..."}, None),
    ],
)
def test_years(row, year):
    assert year_of(row) == year


def test_which_rows_a_set_wants():
    def wanted(name, row):
        return SETS[name].wanted(row)

    assert [wanted("aime_1983_2021", {"year": y}) for y in (1983, 2021, 2022)] == [
        True,
        True,
        False,
    ]
    assert [wanted("aime24", {"year": y}) for y in (2023, 2024, 2025)] == [False, True, False]
    assert wanted("aime25", {"id": "7"})
    with pytest.raises(InputError, match="does not say its year.*1983 to 2021"):
        wanted("aime_1983_2021", {"id": "7"})
    assert wanted("numina_amc_aime", {"data_source": "numina_amc_aime"})
    assert not wanted("numina_amc_aime", {"data_source": "numina_olympiads"})
    with pytest.raises(InputError, match="lacks the column data_source"):
        wanted("numina_amc_aime", {})


def gold(answer, several=False, unit=None, error=None):
    row = {"is_multiple_answer": several, "unit": unit, "error": error}
    found = json.loads(olympiad_gold(row, answer))
    assert found.pop("ordered") is False
    return found


@pytest.mark.parametrize(
    ("answer", "answers"),
    [
        ("1,3,5", ["1", "3", "5"]),
        ("$69$,$84$", ["69", "84"]),
        ("$(6,3),(9,3)$", ["(6,3)", "(9,3)"]),
        ("$f(x)=-1$, $f(x)=x+1$", ["f(x)=-1", "f(x)=x+1"]),
        ("$221,$8$", ["221", "8"]),
        ("$(-\\frac{1}{2}, \\frac{7}{2})$", ["(-\\frac{1}{2}, \\frac{7}{2})"]),
        ("$\\log_{10} 3, \\sin x$", ["\\log_{10} 3", "\\sin x"]),
        ("-2,-2", ["-2", "-2"]),
        ("$f(x)=ax$, where $a$ is an integer, and $a>0$", None),
    ],
)
def test_several_answers(answer, answers):
    found = gold(answer, several=True)
    assert found == {"answers": answers or [answer], "unit": None, "error": None}


def test_one_answer_is_not_split():
    assert gold("$f(n)=n$, $g(n)=1$")["answers"] == ["$f(n)=n$, $g(n)=1$"]


def test_units_and_errors():
    assert gold("4.2", unit="%", error="1e-1") == {"answers": ["4.2"], "unit": "%", "error": "1e-1"}
    assert gold("4.2", unit=" ", error=0.5) == {"answers": ["4.2"], "unit": None, "error": "0.5"}


def test_made_before():
    made = olympiad_gold({"is_multiple_answer": True, "unit": None, "error": None}, "1,3")
    assert olympiad_gold({}, made) == made


def test_a_column_is_missing():
    with pytest.raises(InputError, match="lacks the column unit.*it has is_multiple_answer, error"):
        olympiad_gold({"is_multiple_answer": True, "error": None}, "1")
