"""Where the contracts come from: which versions, and what happens where they cannot be had."""

import re
import zipfile
from pathlib import Path

import pytest

import wheels
from megaprune.engine_versions import VLLM

LOCKS = Path(__file__).parents[2] / "requirements"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels, which is all that pip knows."""
    (tmp_path / "index").mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("MEGAPRUNE_TEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "index"


def test_only_what_is_asked_for_is_kept(index, tmp_path):
    with zipfile.ZipFile(index / "tiny-1.5-py3-none-any.whl", "w") as wheel:
        for name in ("tiny/__init__.py", "tiny/a/b.py", "tiny/large.so"):
            wheel.writestr(name, name)
    folder = wheels.files("tiny", "1.5", "tiny/*.py")
    assert (folder / "tiny/a/b.py").read_text() == "tiny/a/b.py"
    assert not (folder / "tiny/large.so").exists()
    (index / "tiny-1.5-py3-none-any.whl").unlink()
    assert wheels.files("tiny", "1.5", "tiny/*.py") == folder  # from the cache
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_what_cannot_be_had_is_said(index, tmp_path):
    with pytest.raises(wheels.Unavailable, match=r"tiny 1.5 cannot be fetched: the index has no"):
        wheels.files("tiny", "1.5", "tiny/*.py")
    with zipfile.ZipFile(index / "tiny-1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/__init__.py", "")
    with pytest.raises(wheels.Unavailable, match=r"its wheel has no tiny/gone.py"):
        wheels.files("tiny", "1.5", "tiny/__init__.py", "tiny/gone.py")
    assert list((tmp_path / "cache").iterdir()) == []


def locked(name):
    """The versions of a package in the locks of GPU machines."""
    texts = [path.read_text() for path in LOCKS.glob("*.txt") if "cpu" not in path.name]
    return {v for text in texts for v in re.findall(rf"^{name}==([\w.]+)", text, re.M)}


@pytest.mark.skipif(not LOCKS.is_dir(), reason="there are no locks")
def test_versions_are_those_that_a_gpu_gets():
    assert locked("vllm") == {wheels.VLLM[1]} == {*VLLM.compared}
    assert locked("transformer-engine") == {wheels.TRANSFORMER_ENGINE[1]}
    assert locked("torch") <= set(wheels.TORCH)
    assert locked("torch")
