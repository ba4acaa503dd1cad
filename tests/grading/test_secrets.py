"""A user's grader sees no keys of the trainer's, and no files of it."""

import json
import os
import socket

import pytest

from megaprune.cli.main import main
from megaprune.errors import InputError
from megaprune.grading import Pool
from megaprune.grading.process import ENVIRONMENT

OWN = '''
import json, os, subprocess, sys
from pathlib import Path
from megaprune.grading import Verdict

LIST = "import os; print({n: os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}')})"

def files():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing
            pass
    return found

def own(gold, response, finished):
    """Tells what it sees."""
    said = {
        "environment": lambda: dict(os.environ),
        "first environment": lambda: Path("/proc/self/environ").read_text(),
        "child": lambda: subprocess.run(["env"], capture_output=True, text=True).stdout,
        "files": files,
        "files of a child": lambda: subprocess.run(
            [sys.executable, "-c", LIST], capture_output=True, text=True).stdout,
        "path": lambda: sys.path,
    }[response]()
    return Verdict(True, json.dumps(said), "right")
'''
SECRETS = {
    name: f"secret-of-{name.lower()}"
    for name in (
        "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN", "SSH_AUTH_SOCK",
        "DATABASE_URL", "HTTPS_PROXY", "MY_PASSWORD", "JUDGE", "PYTHON_KEYRING_PASSWORD",
        "PYTHONTOKEN", "LC_SECRET", "LANG_KEY", "PATH_TO_TOKEN", "HOME_PASSWORD", "path", "Path",
        "MEGAPRUNE_KEY", "TOKEN", "_",
    )
}  # fmt: skip


@pytest.fixture
def own(tmp_path, monkeypatch):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return f"{file}:own"


def told(own, response, **more):
    with Pool({}, own, seconds=20, **more) as pool:
        pool.submit(0, "", "", response, True)
        verdict = pool.results()[0]
    assert verdict.match, verdict
    return json.loads(verdict.extracted)


def test_no_variable_but_what_python_needs(own, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    seen = told(own, "environment")
    # Python and the C library set LC_CTYPE themselves.
    assert seen.keys() <= ENVIRONMENT | {"PYTHONPATH", "OMP_NUM_THREADS"}
    assert (seen["TZ"], seen["OMP_NUM_THREADS"]) == ("UTC", "1")
    assert "PATH" in seen


@pytest.mark.parametrize("response", ["environment", "first environment", "child"])
def test_no_key_is_seen(own, response):
    assert "secret-of" not in json.dumps(told(own, response))


def test_variables_that_are_named(own):
    seen = told(own, "environment", variables=["MY_PASSWORD", "JUDGE"])
    assert seen["MY_PASSWORD"] == SECRETS["MY_PASSWORD"]
    assert {name for name, value in seen.items() if "secret-of" in value} == {
        "MY_PASSWORD", "JUDGE",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["NOT_THERE", "", "A=B", "MY_PASSWORD ", "*"])
def test_a_named_variable_that_is_not_there(own, name):
    with pytest.raises(InputError, match="grading.environment has .*, which the environment has"):
        Pool({}, own, variables=["MY_PASSWORD", name])


def test_no_file_of_the_trainer_is_seen(own, tmp_path):
    """Also what was made to be inherited: a file, a folder, a pipe, sockets."""
    (tmp_path / "weights").write_text("weights")
    handles = [
        os.open(tmp_path / "weights", os.O_RDWR), os.open(tmp_path, os.O_RDONLY), *os.pipe()
    ]  # fmt: skip
    sockets = [*socket.socketpair(), socket.socket()]
    sockets[-1].bind(("127.0.0.1", 0))
    sockets[-1].listen()
    try:
        for handle in [*handles, *sockets]:
            os.set_inheritable(handle if isinstance(handle, int) else handle.fileno(), True)
        seen = told(own, "files")
        ofchild = told(own, "files of a child")
    finally:
        for handle in handles:
            os.close(handle)
        for each in sockets:
            each.close()
    errors = seen.pop("1")
    assert seen.pop("2") == errors
    assert seen.pop("0") == "/dev/null"
    (only,) = seen.values()
    assert only.startswith("socket:")
    assert "socket:" not in ofchild
    assert "weights" not in ofchild


def test_modules_are_found_without_the_variables(own, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def right(gold, response, finished): return True")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Pool({}, "mine:right") as pool:
        pool.submit(0, "", "", "", True)
        assert pool.results()[0].match


def test_the_command_names_variables(own, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"gold": "", "response": "environment"}\n')
    words = ["grade", "--input", str(rows), "--mode", own, "--seconds", "20"]
    assert main(words) == 0
    assert "secret-of" not in capsys.readouterr().out
    assert main([*words, "--environment", "JUDGE", "--environment", "TOKEN"]) == 0
    assert capsys.readouterr().out.count("secret-of") == 2
    assert main([*words, "--environment", "NOT_THERE"]) == 1
    assert "NOT_THERE" in capsys.readouterr().err
