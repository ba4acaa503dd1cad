"""`megaprune plan` as it is typed."""

import json
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import megaprune as mp
from megaprune.cli.main import main
from megaprune.config.fields import leaves
from megaprune.errors import InputError
from megaprune.planner.division_table import division_table
from megaprune.planner.hardware import GPU_TYPES, HardwareSpec
from megaprune.planner.request import find_shape, gpus_of_recipe, read_plan_config
from megaprune.planner.run_plan import plan_run, tables_of
from megaprune.planner.search import (
    check_parallelism,
    division_of,
    fastest_divisions,
    fastest_on_more,
    problems_of,
)
from megaprune.planner.total_memory import gpu_memory
from megaprune.recipes import RECIPES, length_harmonizing, reasoning_models
from megaprune.recipes.models import CONFIGS, shape_of
from megaprune.rules import parallelism_problems
from reference import QWQ_AT_TP8

QWQ = find_shape("QwQ-32B")


def planned(capsys, *words):
    """Status and the JSON."""
    status = main(["plan", *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_recipe_on_4_x_8_gpus(capsys):
    status, report = planned(capsys, "recipe=qwq_32b")
    assert (status, report["fits"], report["problems"]) == (0, True, [])
    assert report["parallelism"] == {
        "gpus": 32, "tp": 2, "pp": 8, "dp": 2, "engines": 8, "engine_tp": 4,
    }  # fmt: skip
    assert report["model"]["parameters"] == 32_763_876_352
    assert set(report["gpu"]["totals"]) == {"generate", "train", "update", "sync"}
    assert report["gpu"]["peak"] == max(report["gpu"]["totals"].values())
    assert report["gpu"]["peak"] < 0.85 * report["gpu"]["usable"]
    assert report["sync"]["equals_lower_bound"]
    assert [one["limit"] for one in report["rounds"]] == [4000, 3000, 2000]
    hours = sum(one["total_seconds"] for one in report["rounds"]) * 32 / 3600
    assert report["gpu_hours"] == pytest.approx(hours)
    assert report["assumed"]["mfu"] == 0.5
    assert report["fields"]["limits"] == [4000, 3000, 2000]


def test_the_five_fastest(capsys):
    """They fit, are in order, and differ in more than recomputing."""
    _, report = planned(capsys, "recipe=qwq_32b")
    hours = [division["gpu_hours"] for division in report["fastest"]]
    assert len(hours) == 5
    assert hours[0] > 0.95 * report["gpu_hours"]  # the recipe is about as fast
    assert all(later > 0.99 * earlier for earlier, later in pairwise(hours))
    kinds = set()
    for division in report["fastest"]:
        _, again = planned(capsys, "recipe=qwq_32b", *division["words"].split())
        assert again["fits"], division["words"]
        assert again["gpu"]["peak"] == division["peak_bytes"]
        assert again["gpu_hours"] == pytest.approx(division["gpu_hours"], rel=1e-3)
        parallelism = again["parallelism"]
        kinds.add((parallelism["tp"], parallelism["pp"], again["fields"]["actor"]["vpp"],
                   parallelism["engine_tp"]))  # fmt: skip
    assert len(kinds) == 5


@pytest.mark.parametrize("gpus", [16, 32])
def test_nothing_that_fits_is_faster(gpus):
    """Divisions drawn at random, each estimated by itself."""
    draw, hardware = random.Random(gpus), HardwareSpec(gpus=gpus)
    start = ["model=QwQ-32B", "limits=[4000,2000]"]
    best = fastest_divisions(read_plan_config(start), QWQ, hardware)[0]
    fitting = 0
    for _ in range(80):
        words = [
            f"actor.tp={draw.choice([2, 4, 8])}", f"actor.pp={draw.choice([2, 4, 8])}",
            f"actor.recompute={draw.choice(['none', 'full'])}", "actor.sequence_parallel=true",
            f"actor.max_tokens={draw.choice([5120, 8192])}",
            f"rollout.tp={draw.choice([2, 4, 8])}",
            f"rollout.gpu_memory_utilization={draw.choice([0.25, 0.3, 0.35, 0.4])}",
        ]  # fmt: skip
        config = read_plan_config([*start, *words])
        if not problems_of(config, QWQ, hardware):
            fitting += 1
            division = division_of(config, QWQ, hardware, {})
            assert division.gpu_hours > best.gpu_hours * 0.98, words
    assert fitting > 5


def test_what_does_not_fit_and_the_words_that_make_it_fit(capsys):
    status, report = planned(capsys, *QWQ_AT_TP8, "rollout.gpu_memory_utilization=0.7")
    assert (status, report["fits"]) == (1, False)
    assert report["problems"][0].startswith("generate: 83.6 GB")
    fastest = report["fastest"][0]
    status, again = planned(capsys, *QWQ_AT_TP8, *fastest["words"].split())
    assert status == 0
    assert again["gpu"]["peak"] == fastest["peak_bytes"]


@pytest.mark.parametrize(
    "words",
    [
        ["actor.tp=3"], ["actor.tp=8", "actor.pp=3"], ["rollout.tp=16"],
        ["actor.tp=8", "actor.pp=2", "actor.vpp=5"], ["actor.sequence_parallel=true"],
    ],
)  # fmt: skip
def test_what_is_fastest_can_be_typed(words):
    hardware, start = HardwareSpec(gpus=32), ["model=QwQ-32B", *words]
    config = read_plan_config(start)
    assert problems_of(config, QWQ, hardware)
    fastest = fastest_divisions(config, QWQ, hardware)[0]
    typed = read_plan_config([*start, *fastest.words.split()])
    assert typed == fastest.config
    assert problems_of(typed, QWQ, hardware) == []


def test_what_changes_nothing_stays_as_it_was_given():
    """A division that is the fastest is named without any change."""
    hardware, start = HardwareSpec(gpus=32), ["model=QwQ-32B"]
    fastest = fastest_divisions(read_plan_config(start), QWQ, hardware)[0]
    again = fastest_divisions(fastest.config, QWQ, hardware)[0]
    assert again.changes == {}
    assert again.gpu_hours == fastest.gpu_hours


def test_more_gpus_where_nothing_fits():
    config, hardware = (
        read_plan_config(["model=QwQ-32B", "actor.tp=8", "rollout.tp=8"]),
        HardwareSpec(gpus=2),
    )
    assert fastest_divisions(config, QWQ, hardware) == []
    fastest = fastest_on_more(config, QWQ, hardware)[0]
    assert fastest.gpus == 4
    assert fastest.config.optimizer.on_cpu > 0  # tried where nothing fits without
    assert problems_of(fastest.config, QWQ, HardwareSpec(gpus=4)) == []


def test_qwq_fits_on_8_gpus_of_80_gb(capsys):
    """With offload alone, which the plan names where it is missing."""
    words = [*QWQ_AT_TP8, "actor.pp=1", "--gpus", "8"]
    status, without = planned(capsys, *words, "rollout.gpu_memory_utilization=0.3")
    assert status == 1
    assert {problem.partition(":")[0] for problem in without["problems"]} == {
        "generate", "train", "update", "sync",
    }  # fmt: skip
    assert all("offload" in division["words"] for division in without["fastest"])
    for kind, share in (("optimizer", 0.75), ("all", 0.85)):
        fields = [f"actor.offload={kind}", f"rollout.gpu_memory_utilization={share}"]
        status, fitting = planned(capsys, *words, *fields)
        assert (status, fitting["problems"]) == (0, [])
        assert fitting["rounds"][0]["seconds"]["offload"] > 0


@pytest.mark.parametrize(
    ("words", "gpus"),
    [
        (["recipe=r1_distill_qwen_1_5b", "--gpus", "8", "--gpu-memory", "16"], 8),
        (["recipe=r1_distill_qwen_1_5b", "--gpus", "1", "--gpu-memory", "12"], 4),
    ],
)
def test_a_gpu_too_small_is_told_what_fits(words, gpus, capsys):
    """On the same GPUs if they do with other fields, else on more of them."""
    assert main(["plan", *words]) == 1
    advice = capsys.readouterr().out.splitlines()[-1]
    assert advice.startswith("would fit")
    typed = advice.partition("fastest: ")[2].partition(" (")[0].split()
    assert ("--gpus" in typed) == (gpus > int(words[2]))
    assert main(["plan", *words, *typed]) == 0
    assert f"on {gpus} GPUs (h100) of {words[4]} GB" in capsys.readouterr().out


def test_nothing_helps_where_the_context_is_too_short(tmp_path, capsys):
    config = {**CONFIGS["DeepSeek-R1-Distill-Qwen-1.5B"], "max_position_embeddings": 2048}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["plan", f"model={tmp_path}", "rollout.gpu_memory_utilization=0.5"]) == 1
    text = capsys.readouterr().out
    assert "more than the model's context of 2048 tokens; lower one of them" in text
    assert "nor does any division on up to 64 nodes" in text


def test_a_folder_and_a_name_have_the_same_shape(tmp_path):
    config = {**CONFIGS["QwQ-32B"], "max_position_embeddings": 40960}
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = find_shape(str(tmp_path))
    assert (report.model, report.context) == (QWQ.model, 40960)
    assert shape_of("DeepScaleR-1.5B-Preview") == shape_of("DeepSeek-R1-Distill-Qwen-1.5B")


def test_what_does_not_divide_is_said_in_the_words_of_a_run():
    def said(*words):
        return list(parallelism_problems(read_plan_config([*QWQ_AT_TP8, *words]), QWQ.model, 32))

    (words,) = said("rollout.tp=3")
    assert words == (
        "rollout.tp=3 does not divide the 32 processes of the job; choose 1, 2, 4, 8, 16 or 32"
    )
    (words,) = said("rollout.tp=16")
    assert "does not divide num_attention_heads=40" in words
    (words,) = said("actor.pp=3")
    assert words == (
        "actor.tp=8 x actor.pp=3 is 24 ranks, which does not divide the 32 that the job has; tp x "
        "pp can be 1, 2, 4, 8, 16 or 32, or start a multiple of 24 ranks"
    )
    assert len(said("actor.pp=3", "rollout.tp=3")) == 2


def test_wrong_usage(capsys):
    for words, said in (
        (["model=QwQ-32B", "actor.tpp=1"], "there is no field 'actor.tpp'; did you mean actor.tp"),
        (["model=QwQ-32B", "actor.tp=x"], "actor.tp='x'; expected a whole number"),
        (["model=QwQ-33B"], "did you mean QwQ-32B"),
        (["model=models/nothing"], "expected one of " + ", ".join(CONFIGS)),
        (["actor.tp=1"], "model must be given"),
        (["recipe=qwq"], "there is no recipe 'qwq'; did you mean qwq_32b"),
        (["recipe=qwq_32b", "rollout.max_response_length=3000"], "give limits=4000,3000,2000"),
        (["model=QwQ-32B", "limits=2000,3000"], "expected numbers of tokens that fall"),
        (["model=QwQ-32B", "limits=2000,0"], "expected numbers of tokens that fall"),
        (["model=QwQ-32B", "actor.recompute=some"], "actor.recompute"),
        (["model=QwQ-32B", "--gpu", "h10"], "--bandwidth); did you mean h100?"),
        (["model=QwQ-32B", "--gpu", "x"], "expected one of a100, a100-40gb"),
        (["model=QwQ-32B", "--mfu", "40"], "--mfu 40; expected a share"),
        (["model=QwQ-32B", "--gpus", "0"], "--gpus 0; expected more than 0"),
        (["model=QwQ-32B", "--reserve", "-1"], "--reserve -1; expected 0 or more"),
    ):
        assert main(["plan", *words]) == 2, words
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "model=QwQ-32B", "--gpus", "many"])
    assert main(["plan", "model=QwQ-33B", "--json"]) == 2
    assert "QwQ-32B" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not name.endswith("_test")])
def test_every_recipe_fits_with_memory_to_spare(recipe):
    config = read_plan_config([f"recipe={recipe}"])
    gpus = gpus_of_recipe([f"recipe={recipe}"])
    known = reasoning_models.GPUS | length_harmonizing.GPUS
    assert gpus == (None if "tiny" in recipe else known[recipe])
    shape, hardware = find_shape(config.model), HardwareSpec(gpus=gpus or config.processes)
    assert problems_of(config, shape, hardware) == []
    assert gpu_memory(config, shape, hardware).peak < 0.9 * hardware.usable


def test_the_fields_are_a_prunings():
    names = {name for name, _ in leaves(read_plan_config(["model=QwQ-32B"]))}
    assert {"limits", "max_drop", "data.train", "out", "rollout.max_response_length"} <= names
    assert main(["plan", "model=QwQ-32B", "--print-config"]) == 0


def test_tables_are_readable_at_100_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["plan", "recipe=qwq_32b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "32.76 billion parameters, 65.53 GB in bfloat16, on 32 GPUs (h100) of 80 GB" in text
    assert "sync: 15.359 GB to a GPU" in text
    assert lines[-1] == "fits"


def test_a_type_of_gpu_sets_what_options_override(capsys):
    words = ["recipe=qwq_32b", "--gpu", "h200", "--bandwidth", "40"]
    status, report = planned(capsys, *words)
    assert (status, report["gpu_type"]) == (0, "h200")
    assumed = report["assumed"]
    assert (assumed["gpu"], assumed["gpu_memory"], assumed["memory_bandwidth"]) == (
        "h200",
        141,
        4.8,
    )
    assert assumed["bandwidth"] == 40
    _, plain = planned(capsys, "recipe=qwq_32b")
    assert plain["gpu_type"] == "h100"
    assert report["engine"]["cache"] > plain["engine"]["cache"]
    step, plain_step = (r["rounds"][0]["seconds"] for r in (report, plain))
    assert step["train"] == plain_step["train"]  # the same operations a second
    assert step["generate"] < plain_step["generate"]
    assert main(["plan", *words]) == 0
    assert "on 32 GPUs (h200) of 141 GB" in capsys.readouterr().out


def test_the_library_plans_as_the_command_does(capsys):
    _, report = planned(capsys, "recipe=qwq_32b", "--gpu", "h200")
    by_library = mp.plan(mp.recipes.qwq_32b(), gpus=32, gpu="h200")
    assert by_library.fits
    assert by_library.gpu_hours == report["gpu_hours"]
    single = mp.plan(mp.recipes.tiny_overthinker())
    assert (single.hardware.gpus, len(single.rounds)) == (2, 1)
    with pytest.raises(mp.InputError, match="did you mean h200"):
        mp.plan(mp.recipes.qwq_32b(), gpu="h20")


@pytest.mark.parametrize("gpu", GPU_TYPES)
def test_every_type_of_gpu_has_a_plan(capsys, gpu):
    status, report = planned(capsys, "recipe=r1_distill_qwen_1_5b", "--gpu", gpu)
    assert status in (0, 1)
    assert report["gpu"]["memory"] == GPU_TYPES[gpu].memory * 1e9
    peak = HardwareSpec.of_type(gpu).flops("bfloat16")
    assert peak == GPU_TYPES[gpu].peak_tflops["bfloat16"] * 1e12
    assert HardwareSpec.of_type(gpu, peak_tflops=5.0).flops("float32") == 5e12


def test_help_names_all_options(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: megaprune plan [key=value ...] [options]\n")
    assert ", ".join(GPU_TYPES) in " ".join(text.split())
    flags = {f"--{name.replace('_', '-')}" for name in vars(HardwareSpec())}
    assert all(f"  {flag} " in text or f"  {flag}\n" in text for flag in flags)


def test_the_tables_of_the_documents_are_those_of_the_command():
    """Cell by cell; as it stands, the tables are printed in one document at the least."""
    config = read_plan_config(["recipe=qwq_32b"])
    run_plan = plan_run(config, HardwareSpec(gpus=32))
    tables = [*tables_of(run_plan), division_table(run_plan)]
    rows = []
    for table in tables:
        columns = [[str(c.header), *map(str, c.cells)] for c in table.columns]
        rows += [list(row) for row in zip(*columns, strict=True)]
    root = Path(__file__).parents[2]
    shown = 0
    for document in [root / "README.md", *sorted(root.glob("docs/**/*.md"))]:
        lines = [line for line in document.read_text().splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if rows[0] not in cells:
            continue
        shown += 1
        assert [row for row in rows if row not in cells] == [], document
        begin = cells.index(rows[0])
        part = [row for row in cells[begin:] if set(row[0]) != {"-", " "} and set(row[0]) != {"-"}]
        assert part[: len(rows)] == rows, document
    assert shown, f"no document has the table that begins with {rows[0]}"


@pytest.mark.parametrize(
    "what",
    ["recipe=qwq_32b", "model=QwQ-32B", "recipe=tiny_overthinker", "recipe=marco_o1_7b_harmonize"],
)
def test_torch_is_not_imported(what):
    code = (
        "import sys; from megaprune.cli.main import main; main(sys.argv[1:]); "
        "loaded = {'torch', 'transformers', 'pyarrow', 'vllm'} & set(sys.modules); "
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code, "plan", what, "--json"], check=True, timeout=100)


def test_nodes_are_checked_before_a_job_is_submitted(capsys):
    check_parallelism("qwq_32b", [], 4, 8)
    with pytest.raises(
        InputError, match=r"not on 3 nodes of 8: actor.tp=2 x actor.pp=8 is 16 ranks"
    ):
        check_parallelism("qwq_32b", [], 3, 8)
    check_parallelism("qwq_32b_test", [], 3, 8)  # an evaluation takes what there is
    check_parallelism("qwq_32b", ["model=models/nothing"], 3, 8)
    assert "not checked here, but by the job" in capsys.readouterr().err
