"""Names that Megatron-core takes from Transformer Engine, in the package's sources."""

import ast
import importlib.util
import shutil
from pathlib import Path

import pytest

from sources import Module, Sources

PACKAGE = "transformer_engine"
ROUNDABOUT = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
"""Whoever expects one of these does without the name."""


def guarded(tree):
    """Lines on which an import may fail."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            caught = {n.id for h in node.handlers for n in ast.walk(h) if isinstance(n, ast.Name)}
            if caught & ROUNDABOUT or any(handler.type is None for handler in node.handlers):
                lines |= {n.lineno for b in node.body for n in ast.walk(b) if hasattr(n, "lineno")}
    return lines


def names(tree):
    """(line, module, name) of each that is taken from the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                yield node.lineno, node.module, alias.name
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("te.pytorch."):
            owner, _, name = ast.unparse(node).removeprefix("te.").rpartition(".")
            yield node.lineno, f"{PACKAGE}.{owner}", name


@pytest.fixture(scope="module")
def taken():
    """(file of Megatron-core, module, name) of each that must be there."""
    spec = importlib.util.find_spec("megatron")
    if spec is None:
        pytest.skip("megatron-core is not installed: pip install '.[cpu]'")
    folder = Path(next(iter(spec.submodule_search_locations)), "core")
    taken = set()
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if PACKAGE in text:
            tree, file = ast.parse(text), path.relative_to(folder).as_posix()
            may_fail = guarded(tree)
            taken |= {(file, m, name) for line, m, name in names(tree) if line not in may_fail}
    assert len(taken) > 30
    return taken


def is_there(sources, module, name):
    """Whether a module, or a class that is named as one, has a name."""
    if sources.parsed(module) is not None:
        return sources.find(module, name) is not None
    owner, _, cls = module.rpartition(".")
    found = sources.find(owner, cls) if owner else None
    if isinstance(found, Module):
        return sources.find(found.name, name) is not None
    return found is not None and sources.member(found, name) is not None


UNUSED = {("fp8_utils.py", "transformer_engine.pytorch.cpp_extensions", "cast_to_fp8")}
"""Missing, where weights in FP8 are quantized: none are here."""


def missing(taken, folder):
    sources = Sources(folder, PACKAGE)
    return {used for used in taken if not is_there(sources, *used[1:])} - UNUSED


def test_the_names_are_there(taken, transformer_engine):
    assert missing(taken, transformer_engine) == set()


def test_a_name_that_is_gone_is_seen(taken, transformer_engine, tmp_path):
    shutil.copytree(transformer_engine / PACKAGE, tmp_path / PACKAGE)
    path = tmp_path / PACKAGE / "pytorch" / "__init__.py"
    line = "from transformer_engine.pytorch.module import LayerNormLinear\n"
    assert line in path.read_text()
    path.write_text(path.read_text().replace(line, ""))
    file = "extensions/transformer_engine.py"
    assert missing(taken, tmp_path) == {(file, f"{PACKAGE}.pytorch", "LayerNormLinear")}
