"""Latest and best are what the checkpoints say, whatever lies beside them; others' files stay."""

import hashlib
import json
import os
import random
import shutil

import pytest

from megaprune.errors import InputError
from megaprune.trainer.checkpoint_files import Best, Score
from megaprune.weights.files.checkpoint_index import latest_checkpoint
from megaprune.weights.files.digests import DIGESTS, CheckpointRecord, damage
from megaprune.weights.files.kind import TRACKER


def names(folder):
    return {path.name for path in folder.glob("iter_*")}


@pytest.mark.parametrize("tie", [0.0, 2.0])
def test_decisions_after_a_resume_are_those_of_a_run_never_killed(tmp_path, tie):
    """At every step of random validations, with any old checkpoints gone but the best."""
    for seed in range(30):
        rng, folder, best = random.Random(seed), tmp_path / str(seed), Best(tie)
        for step in range(1, 12):
            score = Score(step, rng.randint(80, 90) / 100, float(rng.randint(5, 15)))
            score = score if rng.random() < 0.8 else None
            if score is not None:
                best = best.after(score)
            if rng.random() < 0.3 and best.score != score:
                continue  # measured and not saved
            checkpoint = folder / f"iter_{step:07}"
            checkpoint.mkdir(parents=True)
            best.record(step, score).write(checkpoint)
            for path in sorted(folder.iterdir())[:-2]:
                if best.score is None or path.name != f"iter_{best.score.step:07}":
                    shutil.rmtree(path)
            assert Best.of(folder, tie) == best


def test_a_best_that_is_gone(tmp_path):
    """The choice is made anew among those that are there."""
    best = Best(0.0)
    for score in (Score(1, 0.9, 9.0), Score(2, 0.7, 7.0), Score(3, 0.8, 8.0)):
        best = best.after(score)
        (tmp_path / f"iter_{score.step:07}").mkdir()
        best.record(score.step, score).write(tmp_path / f"iter_{score.step:07}")
    assert Best.of(tmp_path, 0.0).score == Score(1, 0.9, 9.0)
    shutil.rmtree(tmp_path / "iter_0000001")
    assert Best.of(tmp_path, 0.0) == Best(0.0, Score(3, 0.8, 8.0), 0.8)
    (tmp_path / "iter_0000003" / DIGESTS).write_text("{")
    assert Best.of(tmp_path, 0.0).score == Score(2, 0.7, 7.0)


TRACKERS = {
    "stale": lambda path: path.write_text("1"),
    "of nothing": lambda path: path.write_text("77"),
    "nonsense": lambda path: path.write_bytes(b"\xff\xfe" * 9),
    "long": lambda path: path.write_text("9" * 5000),
    "empty": lambda path: path.write_text(""),
    "a link": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", TRACKERS)
def test_the_tracker_is_never_believed(checkpoints, trained, kind):
    saved, actor = checkpoints(), trained()
    for step in (1, 2):
        saved.save(step, actor, {})
    tracker = saved.folder / TRACKER
    TRACKERS[kind](tracker)
    assert latest_checkpoint(saved.folder) == saved.folder / "iter_0000002"
    assert checkpoints().load_latest(actor).step == 2
    assert not tracker.is_symlink()
    assert tracker.read_text() == "2"


def test_the_tracker_of_another_program_says_which_is_whole(tmp_path):
    """Half of a checkpoint may have a name there; without a word, the last one is taken."""
    for step in (10, 20, 30):
        (tmp_path / f"iter_{step:07}").mkdir()
        (tmp_path / f"iter_{step:07}" / "metadata.json").write_text("{}")
    tracker = tmp_path / TRACKER
    for word, name in [("20\n", "iter_0000020"), ("x", "iter_0000030"), ("7", "iter_0000030")]:
        tracker.write_text(word)
        assert latest_checkpoint(tmp_path).name == name
    (tmp_path / "release").mkdir()
    tracker.write_text("release")
    assert latest_checkpoint(tmp_path).name == "release"
    for path in tmp_path.glob("iter_*"):
        shutil.rmtree(path)
    tracker.write_text("40")
    with pytest.raises(InputError, match="names '40', which is not a checkpoint"):
        latest_checkpoint(tmp_path)


def test_a_kill_right_after_the_rename(checkpoints, trained):
    """The tracker and the removal of old ones come later, and are made up for."""
    saved, actor = checkpoints(keep_last=1), trained()
    saved.save(1, actor, {}, Score(1, 0.5, 9.0))
    first = saved.folder / "iter_0000001"
    shutil.copytree(first, saved.folder / "kept")
    saved.save(2, actor, {}, Score(2, 0.9, 9.0))
    assert names(saved.folder) == {"iter_0000002"}
    (saved.folder / "kept").rename(first)
    (saved.folder / TRACKER).write_text("1")
    again = checkpoints(keep_last=1)
    assert again.load_latest(actor).step == 2
    assert names(saved.folder) == {"iter_0000002"}
    assert (saved.folder / TRACKER).read_text() == "2"
    assert not again.is_best(Score(3, 0.8, 1.0))


@pytest.mark.parametrize("kind", ["notes", "a link", "a changed file"])
def test_an_old_one_that_is_not_ours_to_remove_stays(checkpoints, trained, tmp_path, kind, capsys):
    saved, actor = checkpoints(keep_last=1), trained()
    saved.save(1, actor, {})
    first = saved.folder / "iter_0000001"
    if kind == "notes":
        (first / "notes.txt").write_text("years of work")
    elif kind == "a link":
        first.rename(tmp_path / "elsewhere")
        first.symlink_to(tmp_path / "elsewhere")
    else:
        (first / "hf" / "config.json").write_text("{}")
    before = sorted(os.listdir(first))
    for step in (2, 3):
        saved.save(step, actor, {})
    assert names(saved.folder) == {"iter_0000001", "iter_0000003"}
    assert sorted(os.listdir(first)) == before
    assert capsys.readouterr().err.count(f"{first} is not needed any more, and stays: ") == 1
    assert checkpoints(keep_last=1).load_latest(actor).step == 3


def test_a_linked_one_is_gone_on_from(checkpoints, trained, tmp_path):
    saved, actor = checkpoints(), trained()
    saved.save(1, actor, {})
    latest = saved.latest()
    latest.rename(tmp_path / "elsewhere")
    latest.symlink_to(tmp_path / "elsewhere")
    assert checkpoints().load_latest(actor).step == 1


def test_folders_that_only_have_such_a_name(checkpoints, trained):
    """They are no checkpoints; where one is in the way of a later step, that is said at once."""
    saved, actor = checkpoints(), trained()
    saved.save(1, actor, {})
    theirs = saved.folder / "iter_0000009"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    (saved.folder / "iter_0000005").symlink_to(saved.folder / "nowhere")
    again = checkpoints()
    assert again.load_latest(actor).step == 1
    again.check_places(1, 4)
    again.save(2, actor, {})
    with pytest.raises(InputError, match="iter_0000005 is a link"):
        again.check_places(2, 5)
    with pytest.raises(InputError, match="iter_0000009 has no record"):
        again.check_places(5, 9)
    again.check_places(9, 20)
    assert (theirs / "thesis.txt").read_text() == "years of work"


def test_a_name_of_another_step(checkpoints, trained):
    saved, actor = checkpoints(), trained()
    saved.save(1, actor, {})
    (saved.folder / "iter_0000001").rename(saved.folder / "iter_0000004")
    with pytest.raises(InputError, match="iter_0000004: it is of step 1, whatever its name says"):
        checkpoints().load_latest(actor)


def test_one_without_digests(checkpoints, trained):
    """Of an earlier version: taken only by whoever asks for it."""
    saved, actor = checkpoints(), trained()
    saved.save(1, actor, {})
    for name in (DIGESTS, ".megaprune_files.json"):
        (saved.latest() / name).unlink()
    with pytest.raises(InputError, match="has no digests .* checkpoint.verify=off takes it"):
        checkpoints().load_latest(actor)
    assert checkpoints(verify="off").load_latest(actor).step == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"step": "1"},
        {"score": {"step": 1, "accuracy": "1", "length": 1.0}},
        {"best": {"accuracy": 1}},
        {"parts": {"/etc/passwd": []}},
        {"parts": {"../../x": []}},
        {"parts": {"a": [["t", None, -1, 5, ""]]}},
        {"parts": {"a": [["t", None, 0.5, 5, ""]]}},
        {"parts": {"a": [["t", None, 0, 1 << 70, ""]]}},
        {"parts": {"a": [["t"]]}},
        {"parts": [1]},
        {"files": {"a": 3}},
        {"files": {"..": [0, ""]}},
        {"more": 1},
    ],
)
def test_a_record_that_was_made_up(tmp_path, fields):
    """With a digest of its own that is right."""
    content = {"format": "megaprune checkpoint 1", "step": 1, "parts": {}, "files": {}, **fields}
    text = json.dumps(content, sort_keys=True)
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / DIGESTS).write_text(json.dumps(content))
    (line,) = damage(tmp_path)
    assert line.startswith(f"{DIGESTS} is not what was written (")


def test_a_record_is_what_was_written(tmp_path):
    record = CheckpointRecord(3, {"step": 3, "accuracy": 0.1 + 0.2, "length": 7.0}, None, 0.3)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "ü.json").write_text("{}")
    record.write(tmp_path)
    read = CheckpointRecord.read(tmp_path)
    assert (read.step, read.score, read.highest) == (3, record.score, 0.3)
    assert [*read.files] == ["hf/ü.json"]
    assert damage(tmp_path) == []
