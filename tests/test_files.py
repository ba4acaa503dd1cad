"""Writing, replacing and removing: whole or not at all, and never what somebody else made."""

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megaprune import files
from megaprune.errors import InputError
from megaprune.files import RECORD

KILL_AT = Path(__file__).parent / "integration" / "kill_at.py"


def tree(folder):
    """What lies in a folder: the content of files, the target of links, None for folders."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def visible(folder):
    return {name: content for name, content in tree(folder).items() if RECORD not in name}


def make(out, overwrite=False, **contents):
    with files.new_folder(out, overwrite=overwrite) as new:
        for name, content in contents.items():
            (new / name).write_text(content)


# Files.


def test_a_file_is_replaced_as_a_whole_and_nothing_lies_beside(tmp_path):
    path = tmp_path / "a.json"
    files.replace_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.new_file(path) as new:  # noqa: PT012
        new.write_text("half")
        raise ZeroDivisionError
    assert tree(tmp_path) == {"a.json": b"old"}
    files.replace_text(path, "new")
    assert tree(tmp_path) == {"a.json": b"new"}
    with pytest.raises(FileExistsError), files.new_file(path, overwrite=False) as new:
        new.write_text("newer")
    assert tree(tmp_path) == {"a.json": b"new"}


def test_files_with_names_like_those_of_staging_stay(tmp_path):
    names = [
        "a.json.partial", "a.json.replaced", ".a.json.lock", ".a.json.1.partial", "a.json.tmp",
        ".a.json.megaprune-0123456789abcdef", "owner.json", "new", "old",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).write_text("mine")
    folder = tmp_path / ".a.json.megaprune-fedcba9876543210"
    folder.mkdir()
    (folder / "owner.json").write_text('{"format": "another program"}')
    (folder / "new").write_text("mine")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "thesis").write_text("mine")
    link = tmp_path / ".a.json.megaprune-0000000000000000"
    link.symlink_to(tmp_path / "outside")
    before = tree(tmp_path)
    files.replace_text(tmp_path / "a.json", "new")
    files.clear_up(tmp_path / "a.json", alone=True)
    files.clear_up_inside(tmp_path)
    assert tree(tmp_path) == {**before, "a.json": b"new"}


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "a").symlink_to("thesis")
    files.replace_text(tmp_path / "a", "new")
    assert tree(tmp_path) == {"thesis": b"mine", "a": b"new"}
    (tmp_path / "b").symlink_to("thesis")
    with pytest.raises(OSError, match="symbolic links"):
        files.append_line(tmp_path / "b", "line")
    files.remove_file(tmp_path / "b")
    assert (tmp_path / "b").is_symlink()
    with pytest.raises(InputError, match="is no link"):
        files.replace_link(tmp_path / "thesis", "a")
    files.replace_link(tmp_path / "b", "a")
    assert tree(tmp_path) == {"thesis": b"mine", "a": b"new", "b": "a"}


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "line\n"), ("one\n", "one\nline\n"), ('{"step": 1', '{"step": 1\nline\n')],
)
def test_a_line_is_added_as_a_line(tmp_path, before, after):
    path = tmp_path / "lines"
    path.write_text(before)
    files.append_line(path, "line")
    assert path.read_text() == after


def test_an_output_is_refused_before_it_is_touched(tmp_path):
    source, ours, other, link = (tmp_path / name for name in ("source", "ours", "other", "link"))
    for path in (source, ours, other):
        path.write_text(path.name)
    link.symlink_to(other)
    (tmp_path / "also").hardlink_to(source)
    os.mkfifo(tmp_path / "pipe")

    def check(path, overwrite=True):
        files.check_output(
            path, source, overwrite=overwrite, is_ours=lambda p: p.read_text() == "ours"
        )

    check(tmp_path / "new", overwrite=False)
    check(ours)
    refused = [
        (source, "is the input"), (tmp_path / "also", "is the input"), (other, "would be lost"),
        (link, "no ordinary file"), (tmp_path, "no ordinary file"),
        (tmp_path / "pipe", "no ordinary file"),
    ]  # fmt: skip
    for path, words in refused:
        with pytest.raises(InputError, match=words):
            check(path)
    with pytest.raises(InputError, match="give --overwrite"):
        check(ours, overwrite=False)


def test_files_in_a_folder_of_others(tmp_path):
    folder = tmp_path / "report"
    files.write_files(folder, {"a.png": b"1", "index.html": b"2"})
    (folder / "notes.txt").write_text("mine")
    files.write_files(folder, {"a.png": b"3", "index.html": b"4"})
    assert visible(folder) == {"a.png": b"3", "index.html": b"4", "notes.txt": b"mine"}
    (folder / "a.png").write_text("drawn over")
    (folder / "b.png").write_text("mine")
    before = tree(folder)
    with pytest.raises(InputError, match=r"would be lost: a\.png, b\.png"):
        files.write_files(folder, {"index.html": b"5", "a.png": b"5", "b.png": b"5"})
    assert tree(folder) == before


# Folders.


def test_a_folder_is_replaced_if_all_in_it_is_the_programs(tmp_path):
    out = tmp_path / "out"
    make(out, a="1", b="2")
    with pytest.raises(InputError, match="give --overwrite"):
        make(out, a="3")
    make(out, overwrite=True, a="3")
    assert visible(tmp_path) == {"out": None, "out/a": b"3"}
    out.joinpath("a").unlink()  # what is gone cannot be lost
    make(out, overwrite=True, a="4")
    assert visible(tmp_path) == {"out": None, "out/a": b"4"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: (out / "thesis.tex").write_text("mine"), r"thesis\.tex"),
        (lambda out: (out / "sub").mkdir(), "sub"),
        (lambda out: (out / "link").symlink_to("/"), "link"),
        (lambda out: (out / "a").write_text("2"), r"a \(changed since\)"),
        (lambda out: (out / "a").unlink() or (out / "a").symlink_to("/etc/passwd"), "a"),
        (lambda out: os.mkfifo(out / "pipe"), "pipe"),
        (lambda out: (out / RECORD).unlink(), "no record"),
        (lambda out: (out / RECORD).write_text("["), "no record"),
        (lambda out: (out / RECORD).write_text("[" * 100_000), "no record"),
        (lambda out: (out / RECORD).write_text('{"format": 1, "files": {}}'), "no record"),
    ],
)
@pytest.mark.parametrize("job", ["replace", "remove"])
def test_a_folder_with_something_of_anothers_stays(tmp_path, spoil, words, job):
    out = tmp_path / "out"
    make(out, a="1")
    spoil(out)
    before = sorted(out.rglob("*"))
    if job == "replace":
        with pytest.raises(InputError, match=words):
            make(out, overwrite=True, a="3")
    else:
        with pytest.raises(InputError, match="is not removed"):
            files.remove_folder(out)
    assert sorted(out.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_is_neither_replaced_nor_removed(tmp_path):
    make(tmp_path / "real", a="1")
    link = tmp_path / "link"
    link.symlink_to("real")
    with pytest.raises(InputError, match="is a link"):
        make(link, overwrite=True, a="2")
    with pytest.raises(InputError, match="is not removed"):
        files.remove_folder(link)
    assert visible(tmp_path) == {"real": None, "real/a": b"1", "link": "real"}
    files.remove_folder(tmp_path / "real")
    assert visible(tmp_path) == {"link": "real"}


def test_what_appears_while_a_folder_is_made_is_not_lost(tmp_path):
    out = tmp_path / "out"
    make(out, a="1")
    with (  # noqa: PT012
        pytest.raises(InputError, match="notes"),
        files.new_folder(out, overwrite=True) as new,
    ):
        (new / "a").write_text("2")
        (out / "notes").write_text("mine")
    assert visible(tmp_path) == {"out": None, "out/a": b"1", "out/notes": b"mine"}


# After a kill.


def killed_at(number, job, folder):
    """Run one of JOBS in a process that is killed at its N-th change; False if it was done."""
    code = f"""
import sys
sys.path[:0] = [{str(KILL_AT.parent)!r}, {str(Path(__file__).parent)!r}]
import kill_at, test_files
from pathlib import Path
folder = Path({str(folder)!r})
kill_at.kill_at({number}, folder)
test_files.JOBS[{job!r}](folder)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode in (0, -signal.SIGKILL), child.stderr
    return child.returncode != 0


def replace_folder(folder):
    make(folder / "out", overwrite=True, a="new", b="new")


def write_report(folder):
    files.write_files(folder / "out", {"a": b"new", "b": b"new"})


def replace_file(folder):
    files.replace_text(folder / "out" / "a", "new")
    files.replace_text(folder / "out" / "b", "new")


JOBS = {"replace a folder": replace_folder, "write files": write_report, "replace": replace_file}


@pytest.mark.parametrize("job", JOBS)
def test_killed_at_every_change(tmp_path, job):
    """Readers see old or new; the same again gives the new, with nothing left beside."""
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "out", a="old", b="old")
        (folder / "out.partial").write_text("mine")
        (folder / ".out.megaprune-notes").write_text("mine")
        if not killed_at(number, job, folder):
            break
        seen = {name: content for name, content in visible(folder / "out").items() if name in "ab"}
        assert set(seen.values()) <= {b"old", b"new"}
        JOBS[job](folder)
        files.clear_up(folder / "out", alone=True)
        files.clear_up_inside(folder / "out")
        assert visible(folder) == {
            "out": None, "out/a": b"new", "out/b": b"new", "out.partial": b"mine",
            ".out.megaprune-notes": b"mine",
        }  # fmt: skip
    assert number > 10


def test_what_a_living_process_makes_is_left_alone(tmp_path):
    path = tmp_path / "a"
    with files.new_file(path) as new:
        new.write_text("first")
        files.clear_up(path)
        files.replace_text(path, "second")
        assert new.read_text() == "first"
    assert tree(tmp_path) == {"a": b"first"}


@pytest.mark.parametrize("lease", ["inner/.megaprune-lease", "inner/.a.megaprune-lease", None])
def test_what_has_a_lease_of_its_own_is_its_holders(tmp_path, lease):
    """Else all that lies below is of dead processes: whoever clears up has the folder's lease."""
    (tmp_path / "inner").mkdir()
    if lease:
        (tmp_path / lease).write_text("{}")
    with contextlib.ExitStack() as stack:
        new = stack.enter_context(files.new_file(tmp_path / "inner" / "a"))
        new.write_text("made")
        files.clear_up_inside(tmp_path)
        assert new.exists() == (lease is not None)
        new.parent.mkdir(exist_ok=True)
        new.write_text("made")


def test_a_process_is_told_from_another_with_its_number():
    mine = files.process_record()
    assert not files.is_gone(mine)
    assert files.is_gone({**mine, "started": "1"})
    assert not files.is_gone({**mine, "machine": "another"})
    assert files.is_gone({**mine, "pid": "x"})
    child = subprocess.run(
        [sys.executable, "-c", "import json; from megaprune import files;"
         "print(json.dumps(files.process_record()))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert files.is_gone(json.loads(child.stdout))


REMOVES = {
    "rmtree",
    "unlink",
    "rmdir",
    "remove",
    "rename",
    "renames",
    "replace",
    "move",
}


def test_no_other_module_removes_or_replaces_anything():
    package = Path(files.__file__).parents[1]
    own = [*Path(files.__file__).parent.glob("*.py"), package / "lease.py"]
    calls = []
    for module in sorted(set(package.rglob("*.py")) - set(own)):
        for node in ast.walk(ast.parse(module.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of = ast.unparse(node.func.value)
            # A text has `replace` too, with two arguments; a list has `remove`.
            name, modules = node.func.attr, of in ("os", "shutil")
            text = not modules and (name == "remove" or (name == "replace" and len(node.args) != 1))
            if name in REMOVES and not text:
                calls.append(f"{module.relative_to(package)}:{node.lineno}: {ast.unparse(node)}")
    assert calls == []
