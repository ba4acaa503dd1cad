"""Imports go one way, from commands down to the weights; what must be light imports nothing heavy."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "megaprune"

# Lowest first. What stands in one row does not import its neighbours. A module belongs to the
# longest name that fits, so that a room's lower part can stand apart.
LAYERS = [
    ["errors", "schema", "config.renamed"],
    ["files", "foreign_text", "schema_page"],
    ["engine_versions", "lease", "yaml_text"],
    ["distributed", "config.fields"],
    ["user_code", "hub"],
    ["weights", "grading"],
    ["algorithms"],
    ["config", "data"],
    ["parallelism"],
    ["actor", "generation"],
    ["trainer"],
    ["evaluation", "pruning"],
    ["harmonizing"],
    ["rules"],
    ["planner"],
    ["validate"],
    ["report.run_records"],
    ["report.summary"],
    ["report.figures"],
    ["analyze"],
    ["report", "doctor"],
    ["study"],
    ["launch"],
    ["library"],
    ["cli"],
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

# (importer, what it imports): the page of a run is written as it goes and in the end, by whoever
# runs it.
ALLOWED = {
    ("trainer.loop", "report"),
    ("trainer.checkpoint_files", "report"),
    ("trainer.loop", "report.progress"),
    ("pruning.rounds", "report"),
    ("harmonizing.run", "report"),
}


def place(module):
    """The entry of LAYERS that a module, named within the package, belongs to."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in LAYER:
            return name
    return None


def imports(path):
    """(line, module of the package) of each import, those inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "megaprune":
                names = [f"megaprune.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("megaprune."):
                yield node.lineno, name.removeprefix("megaprune.")


def test_imports_go_one_way():
    wrong, used = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not module:
            continue
        importer = place(module)
        if importer is None:
            wrong.append(f"{path} is in no layer: add it to LAYERS")
            continue
        for line, name in imports(path):
            imported = place(name)
            if imported in (None, importer):
                continue
            if LAYER[imported] >= LAYER[importer]:
                pair = (module, name)
                used.add(pair)
                if pair not in ALLOWED:
                    wrong.append(
                        f"{path}:{line}: {importer} (layer {LAYER[importer]}) imports {name} "
                        f"(layer {LAYER[imported]})"
                    )
    assert not wrong, "\n".join(wrong)
    assert used >= ALLOWED, "what is allowed and does not happen"


ENGINES = ("megatron", "vllm", "transformers", "torch.distributed")
LOAD = """
import json, sys
for name in sys.argv[1:]:
    before = set(sys.modules)
    if name == "megaprune --help":
        try:
            from megaprune.cli.main import main
            main(["--help"])
        except SystemExit:
            pass
    else:
        __import__(name)
    print(json.dumps([name, sorted(sys.modules.keys() - before)]))
"""
# One after the other in a process, so that each has what it brings beside those before it.
LIGHT = {
    "megaprune": 20,
    "megaprune --help": 125,
    "megaprune.weights.layouts": 60,
    "megaprune.weights.copy_plan": 20,
    "megaprune.config.run": 400,
    "megaprune.rules": 40,
    "megaprune.planner.total_memory": 40,
    "megaprune.algorithms.registry": 300,
    "megaprune.algorithms.losses": 200,
}
"""Modules that each may bring, at most: seconds depend on the machine and on what else it does."""


@pytest.fixture(scope="module")
def brought():
    """The modules that each import brings."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *LIGHT], capture_output=True, text=True, check=True
    )
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.mark.parametrize("name", LIGHT)
def test_what_is_light_imports_nothing_heavy(brought, name):
    modules = brought[name]
    assert [module for module in modules if module.startswith(ENGINES)] == []
    assert "torch" not in modules
    assert len(modules) <= LIGHT[name]


def test_no_two_classes_share_a_name():
    owners = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                owners.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    assert {name: places for name, places in owners.items() if len(places) > 1} == {}


def test_functions_fit_a_screen():
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                long += [f"{path}:{node.lineno}: {node.name} has {lines} lines"] * (lines > 60)
    assert long == []
