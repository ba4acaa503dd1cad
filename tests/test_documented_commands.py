"""What README.md and docs/ tell people to run, run; what they name is there."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        *REPOSITORY.glob("*.md"),
        *sorted((REPOSITORY / "docs").glob("*.md")),
    ]
}
README = PAGES["README.md"]
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed"
)


def blocks(text, language):
    """The code blocks of a language, each with the name behind it, if there is one."""
    return re.findall(rf"^```{language} ?(\S*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text, program):
    """The commands of a program in a page's blocks, as words."""
    lines = "".join(code for _, code in blocks(text, "bash")).replace("\\\n", "").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program} ")]


def run(*command, cwd):
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "<frozen runpy>" not in done.stderr  # it warns of modules that are there already
    return done.stdout


@needs_vllm
def test_the_first_command(tmp_path):
    """The demo's command, made short with fields as the README says."""
    line = next(line for line in README.splitlines() if line.startswith("tests/install.sh"))
    command = line.split(".venv/bin/")[1].split()
    short = [
        "steps=2",
        "data.train_batch_size=8",
        "rollout.n=4",
        "validation.max_response_length=24",
        "validation.n=1",
    ]
    out = run(*command, *short, cwd=tmp_path)
    for number in (1, 2):
        assert f"step {number}/2" in out
    assert out.count("\n  validation") == 2
    assert (tmp_path / "runs/demo/model/model.safetensors").is_file()
    assert (tmp_path / "runs/demo/report/index.html").is_file()


def test_a_round_trip(tmp_path):
    (text,) = re.findall(r"`python (recipes/round_trip.py[^`]*)`", PAGES["docs/convert.md"])
    script, *arguments = text.split()
    out = run(sys.executable, REPOSITORY / script, *arguments, cwd=tmp_path)
    assert "1 of 1 weight files are the same file, byte for byte" in out
    made = tmp_path / "round-trip"
    assert {path.name for path in made.iterdir()} == {"hf", "megatron", "back"}
    again = run(sys.executable, REPOSITORY / script, *arguments, cwd=tmp_path)
    assert "1 of 1 weight files" in again


def test_the_conversion_commands(tmp_path):
    """The block of commands, with a tiny model under the name it uses."""
    from megaprune.recipes.tiny_models import make_tiny

    ((_, block),) = blocks(PAGES["docs/convert.md"], "bash")
    commands = [line.split() for line in block.splitlines()]
    assert [command[2] for command in commands] == ["to-megatron", "to-hf", "verify", "inspect"]
    make_tiny(tmp_path / "QwQ-32B")
    run(*commands[0], cwd=tmp_path)
    checkpoint = tmp_path / commands[1][4]
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "QwQ-32B-megatron").rename(checkpoint)
    run(*commands[1], cwd=tmp_path)
    checkpoint.rename(tmp_path / "QwQ-32B-megatron")
    run(*commands[2], cwd=tmp_path)
    run(*commands[3], cwd=tmp_path)


@needs_vllm
def test_both_engines_in_one_job():
    """The model learns what it is rewarded for, and the engines agree all the way."""
    page = PAGES["docs/library.md"]
    (line,) = (x for x in page.splitlines() if x.startswith("torchrun ") and "two_engines" in x)
    out = run(*line.split(), cwd=REPOSITORY)
    steps = [line.split() for line in out.splitlines() if line.startswith("step ")]
    rewards = [float(step[3].rstrip(",")) for step in steps]
    assert len(rewards) == 8
    assert rewards[-1] > rewards[0] + 0.2
    assert all(float(step[7]) < 1e-5 for step in steps)
    assert all(float(step[10]) > 0 for step in steps)


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ((8, 2, 2), "TP8 x PP2 x DP2"),
        ((8, 4, 1), "TP8 x PP4 x DP1"),
        ((4, 4, 2), "TP4 x PP4 x DP2"),
    ],
)
def test_the_table_of_a_weight_sync(layout, row):
    """The figures are those that the benchmark counts."""
    table = run(
        sys.executable,
        "benchmarks/copy_plan.py",
        "--layout",
        *map(str, layout),
        "8",
        cwd=REPOSITORY,
    )
    words = table.splitlines()[-1].split()
    low, mean, high, bound, whole = words[7:12]
    assert bound == "equal"
    page = PAGES["docs/performance.md"]
    line = next(line for line in page.splitlines() if line.startswith(f"| {row} "))
    assert f" {mean} GB" in line
    assert low == high == mean or f"({low} to {high})" in line
    assert f" {whole} GB" in line
    assert line.rstrip(" |").endswith(f" {words[-2]}")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The files that a page names are written, into the current folder, beside the examples."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def write(page):
        named = [block for kind in ("python", "json", "yaml") for block in blocks(page, kind)]
        for name, text in named:
            if name:
                (tmp_path / name).write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("name", [name for name in PAGES if commands(PAGES[name], "megaprune")])
def test_all_commands_are_well_formed(name, written, capsys):
    """Options and fields are there; what needs a GPU or the hub is not begun."""
    from megaprune.cli.main import _parse, main

    written(PAGES[name])
    for command in commands(PAGES[name], "megaprune"):
        if command[0] in ("train", "prune", "evaluate", "harmonize", "study"):
            short = [word for word in command if not word.startswith("--check")]
            short = [word for word in short if not word.isdigit()]
            assert main([*short, "--print-config"]) == 0, command
        elif command[0] in ("plan", "doctor"):
            assert _parse(command).command == command[0]
        elif command[0] == "data" and Path(command[command.index("--out") - 1]).exists():
            assert main(command) == 0, command
        elif command[0] != "data" or "--input" not in command:
            # Its input is not there; 2 is a wrong command.
            assert main(command) == 1, command
            assert "megaprune: error: " in capsys.readouterr().err


def test_own_problems_in_json_lines(written, capsys):
    """The command of docs/data.md makes what a run reads."""
    from megaprune.cli.main import main
    from megaprune.data import read_parquet

    page = PAGES["docs/data.md"]
    folder = written(page)
    (command,) = (c for c in commands(page, "megaprune") if c[0] == "data")
    assert main(command) == 0
    assert "written     2" in capsys.readouterr().out
    rows = [row for _, row in read_parquet(folder / command[command.index("--out") + 1])]
    assert [(row.data_source, row.gold) for row in rows] == [("mine", "165"), ("mine", "282")]
    # README's is the same command, with other names of files.
    assert {"--input", "--source", "--problem-column", "--answer-column", "--out"} <= set(
        next(c for c in commands(README, "megaprune") if c[0] == "data")
    )


def test_own_grader_and_order(written, monkeypatch):
    from megaprune.data.order import GroupResult, make_order
    from megaprune.grading.graders import resolve

    written(PAGES["docs/data.md"])
    assert resolve("my_grader.py:last_number")("12", "3 and 9 is 12", True).match
    assert not resolve("my_grader.py:last_number")("12", "3 and 9 is 12", False).match
    order = make_order("my_order.py:Repeating", 3, 0)
    assert order.take(2) == [0, 1]
    order.observe([GroupResult(0, 0.0, 0.0, 9.0), GroupResult(1, 0.5, 0.5, 9.0)])
    other = make_order("my_order.py:Repeating", 3, 0)
    other.load_state_dict(order.state_dict())
    assert order.take(4) == other.take(4) == [2, 0, 0, 1]


def test_code_compiles_and_names_of_the_library_are_there():
    import megaprune as mp

    for name, page in PAGES.items():
        for _, code in blocks(page, "python"):
            compile(code, name, "exec")
        for attribute in re.findall(r"\bmp\.(\w+)", page):
            assert hasattr(mp, attribute), f"{name}: mp.{attribute}"
        for recipe in re.findall(r"\bmp\.recipes\.([a-z]\w*)", page):
            assert hasattr(mp.recipes, recipe), f"{name}: {recipe}"


def test_links_lead_somewhere():
    for name, page in PAGES.items():
        for target in re.findall(r"\]\(([^)]+)\)", page):
            if target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            there = (REPOSITORY / name).parent / path if path else REPOSITORY / name
            assert there.exists(), f"{name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
                assert anchor in anchors, f"{name}: {target}"


def test_every_page_is_in_the_index():
    index = PAGES["docs/README.md"]
    for name in PAGES:
        if name.startswith("docs/") and name != "docs/README.md":
            assert f"({name.removeprefix('docs/')})" in index, name


def test_paths_are_there():
    """Files of the repository that pages name, such as `megaprune/actor/cpu.py`."""
    rooms = "megaprune|tests|recipes|examples|slurm|benchmarks|converters|docs"
    for name, page in PAGES.items():
        for path in re.findall(rf"(?<![\w/.-])(?:{rooms})/[\w./-]*\w/?", page):
            assert (REPOSITORY / path).exists(), f"{name}: {path}"
    page = PAGES["docs/architecture.md"]
    parts = {p.name for p in (REPOSITORY / "megaprune").iterdir() if p.name != "__pycache__"}
    rooms = {part for part in parts if "." not in part or part.endswith(".py")} - {"__init__.py"}
    layers = page.split("## Layers")[1].split("Beside the package")[0]
    named = set(re.findall(r"`(\w+(?:\.py)?)/?`", layers))
    assert rooms <= named | {"py.typed"}, rooms - named


def test_fields_are_those_of_configurations():
    """Names of fields in code: `rollout.n`, `data.train=FILE`."""
    from megaprune.algorithms import describe_fields
    from megaprune.algorithms.sample_weights import SampleWeights
    from megaprune.config.fields import describe, sections
    from megaprune.config.run import Config
    from megaprune.evaluation.config import EvaluateConfig
    from megaprune.harmonizing.config import HarmonizeConfig
    from megaprune.pruning.config import PruneConfig

    kinds = (Config, PruneConfig, EvaluateConfig, HarmonizeConfig)
    known = {doc.name for kind in kinds for doc in describe(kind)}
    known |= {doc.name for doc in (*describe_fields(), *SampleWeights.describe_fields())}
    names = "|".join(["algorithm", "harmonize", *sections(HarmonizeConfig)])
    field = re.compile(rf"(?<![\w./-])(?:{names})(?:\.[a-z_]+)+(?![\w(/]|\.\w)")
    for name, page in PAGES.items():
        code = re.findall(r"`[^`\n]+`", page) + re.findall(r"^    .*$", page, re.MULTILINE)
        code += [text for _, text in blocks(page, "bash")]
        python = "".join(text for _, text in blocks(page, "python"))
        # Of components that the page itself writes.
        own = {
            f"algorithm.{part}.{key}"
            for part in ("reward", "advantage", "filter", "loss")
            for key in re.findall(r"^    (\w+): ", python, re.MULTILINE)
        }
        for key in field.findall("\n".join(code)):
            is_table = key.startswith("grading.graders.")
            is_file = key.endswith((".parquet", ".py", ".json"))
            assert key in known | own or is_table or is_file, f"{name}: {key}"


def test_metrics_are_those_of_the_schema():
    from megaprune import schema

    page = PAGES["docs/read_the_metrics.md"]
    firsts = re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)
    named = [metric for first in firsts for metric in re.findall(r"`([^`]+)`", first)]
    assert len(named) >= 11
    for metric in named:
        assert schema.metric_of(metric), metric


def test_presets_are_described():
    """The table of presets says what they are made of."""
    from megaprune.algorithms.presets import PRESETS

    page = PAGES["docs/write_an_algorithm.md"]
    for name, preset in PRESETS.items():
        (row,) = re.findall(rf"^\| `{name}`.*$", page, re.MULTILINE)
        reward, advantage, chosen, loss = row.strip("| ").split("|")[1:]
        assert f"`{preset.spec['rewards'][0]['name']}`" in reward
        assert f"`{preset.spec['advantage']['name']}`" in advantage
        assert f"`{preset.spec['filter']['name']}`" in chosen
        for key, value in preset.spec["loss"].items():
            assert (f"`{value}`" if key == "name" else f"`{key}` {value}") in loss


def test_the_test_of_ones_own_reward(written):
    folder = written(PAGES["docs/write_an_algorithm.md"])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_rewards.py"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_plan_of_qwq():
    """The tables are what the command prints."""
    printed = run("megaprune", "plan", "recipe=qwq_32b", cwd=REPOSITORY)
    rows = {tuple(filter(None, map(str.strip, line.split("│")))) for line in printed.splitlines()}
    section = PAGES["docs/plan.md"].split("prints these tables:")[1].split("The last table")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    cells = [tuple(filter(None, map(str.strip, line.split("|")))) for line in lines]
    assert len(cells) == 32
    assert [
        row
        for row in cells
        if row[0] not in ("GB of a GPU (stage 7)", "seconds of a step", "fastest on 32 GPUs")
        and row not in rows
    ] == []
