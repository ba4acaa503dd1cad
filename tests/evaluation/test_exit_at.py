"""Early exits have a name of their own, and older files are read by it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megaprune.cli.main import main
from megaprune.errors import InputError
from megaprune.evaluation import samples
from megaprune.evaluation.config import read_evaluate_config
from megaprune.schema import renamed, stored_columns

RECIPE = "recipe=tiny_overthinker_test"


def test_the_old_field_is_refused_with_the_new_name():
    with pytest.raises(InputError, match="there is no field 'force'; its name is exit_at"):
        read_evaluate_config([RECIPE, "force=100"])
    assert read_evaluate_config([RECIPE, "exit_at=100,200"]).exit_at == [100, 200]


@pytest.mark.parametrize("options", [["--budget", "100"], ["--budget=100,200"]])
def test_the_old_option_is_refused_with_the_new_name(options, capsys):
    assert main(["evaluate", RECIPE, *options]) == 1
    assert "there is no option --budget; its name is --exit-at" in capsys.readouterr().err


def test_the_option_is_the_field(capsys):
    assert main(["evaluate", RECIPE, "--exit-at", "100,200", "--print-config"]) == 0
    assert "exit_at:\n- 100\n- 200\n" in capsys.readouterr().out


def test_columns_of_older_tables_have_today_s_names(tmp_path):
    rows = [{"problem": "p", "budget": None}, {"problem": "p", "budget": 50}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part_0_000001.parquet")
    found = list(samples.read(tmp_path, "problem", "exit_at", "step"))
    assert found == [
        {"problem": "p", "exit_at": None, "step": None},
        {"problem": "p", "exit_at": 50, "step": None},
    ]
    # A table that has both is one of today's, with a column of its own.
    assert stored_columns(["exit_at"], ["budget", "exit_at"]) == {"exit_at": "exit_at"}
    assert stored_columns(["exit_at"], ["problem"]) == {}
    assert renamed({"budget": 1, "length": 2}) == {"exit_at": 1, "length": 2}
