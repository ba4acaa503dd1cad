import json
import shutil
from pathlib import Path

import pytest

from megaprune.cli.main import main
from reference import TINY_MODELS

DTYPES = {"qwen2-tied": "bfloat16", "qwen3": "float16"}


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Tiny Hugging Face folders, as `TINY_MODELS` and in its dtypes; not to be changed."""
    from megaprune.recipes.tiny_models import make_tiny

    root = tmp_path_factory.mktemp("models")
    return {
        name: make_tiny(root / name, family, dtype=DTYPES.get(name, "float32"), **config)
        for name, (family, config) in TINY_MODELS.items()
    }


@pytest.fixture
def hf(tiny_models, tmp_path) -> Path:
    """A Hugging Face folder of one's own."""
    return Path(shutil.copytree(tiny_models["qwen2"], tmp_path / "hf"))


@pytest.fixture
def megatron(hf, tmp_path, convert) -> Path:
    """A checkpoint of the model in `hf`, with padded vocabulary and without a manifest."""
    out = tmp_path / "megatron"
    padded = ("--pad-vocab-to-multiple-of", 128)
    assert convert("to-megatron", "--hf", hf, "--out", out, *padded, "--no-verify").status == 0
    return out


class Result:
    """Exit status and output of a command."""

    def __init__(self, status, captured):
        self.status, self.out, self.err = status, captured.out, captured.err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def text(self):
        """Everything printed, line breaks of the terminal's width undone."""
        return " ".join((self.out + self.err).split())


@pytest.fixture
def convert(capsys):
    """Run `megaprune convert ...` in this process."""

    def run(*arguments):
        capsys.readouterr()
        return Result(main(["convert", *map(str, arguments)]), capsys.readouterr())

    return run
