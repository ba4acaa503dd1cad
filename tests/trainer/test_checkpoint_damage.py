"""A damaged checkpoint is found and named, and the whole one before it is gone on from."""

import hashlib
import os
import random
import shutil

import pytest

from megaprune.actor.megatron_versions import READS_COMMON_OBJECT
from megaprune.errors import InputError
from megaprune.files import RECORD
from megaprune.trainer.checkpoint import export
from megaprune.trainer.checkpoint_files import Score, best_whole, damage_of, goes_on
from megaprune.weights.files.digests import DIGESTS, CheckpointRecord, damage
from megaprune.weights.verify import verify_manifest

FLIPS = int(os.environ.get("MEGAPRUNE_FLIPS", "60"))
"""How many single bits are flipped; 1,000 by hand."""

STATE = ".metadata" if READS_COMMON_OBJECT else "common.pt"
"""A small file of Megatron-core's: since 0.19, the run's own state lies among the tensors."""

FIRST, SECOND = "iter_0000001", "iter_0000002"


@pytest.fixture
def two(checkpoints, trained, step):
    """Two checkpoints of an actor, and its weights at the first."""
    saved, actor = checkpoints(), trained()
    saved.save(1, actor, {"cursor": [1]})
    before = {name: weight.clone() for name, weight in actor.parameters().items()}
    step(actor)
    saved.save(2, actor, {"cursor": [2]})
    return saved.folder, before


def flip(path, bit):
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ (1 << bit % 8)]))


def tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tensor_file(checkpoint):
    return max(checkpoint.glob("*.distcp"), key=lambda path: path.stat().st_size)


def test_every_flipped_bit_is_found_and_named(two):
    """Half of the bits anywhere in all bytes, half of them in any file, however small."""
    checkpoint, rng = two[0] / SECOND, random.Random(7)
    whole, record = tree(checkpoint), CheckpointRecord.read(checkpoint)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    seen = set()
    for number in range(FLIPS):
        weights = sizes if number % 2 else [1] * len(files)
        path = rng.choices(files, weights)[0]
        name = str(path.relative_to(checkpoint))
        bit = rng.randrange(8 * path.stat().st_size)
        flip(path, bit)
        lines = damage_of(checkpoint, "full")
        if name == RECORD:  # it says what may be removed, and nothing of the model
            assert lines == [], (name, bit)
        elif name == DIGESTS and not lines:  # another way to write the same
            assert CheckpointRecord.read(checkpoint) == record, bit
        else:
            (line,) = lines
            assert line.startswith(name), (name, bit, line)
            for part in record.parts.get(name, []):
                if part.offset <= bit // 8 < part.offset + part.length:
                    assert str(part) in line, (bit, line)
                    seen.add(part.tensor)
        flip(path, bit)
    assert damage_of(checkpoint, "full") == []
    assert tree(checkpoint) == whole
    assert len(seen) >= min(FLIPS // 20, 15)


def test_all_bytes_of_files_with_tensors_are_in_a_part(two):
    checkpoint = two[0] / SECOND
    record = CheckpointRecord.read(checkpoint)
    assert {*record.parts} == {path.name for path in checkpoint.glob("*.distcp")}
    for name, parts in record.parts.items():
        at = 0
        for part in parts:
            assert part.offset == at
            at += part.length
        assert at == (checkpoint / name).stat().st_size
    assert sum(bool(part.tensor) for part in sum(record.parts.values(), [])) > 20


def test_shares_of_several_processes_are_all_of_it(two):
    checkpoint = two[0] / SECOND
    data = tensor_file(checkpoint)
    content = bytearray(data.read_bytes())
    for part in CheckpointRecord.read(checkpoint).parts[data.name]:
        content[part.offset] ^= 1
    data.write_bytes(content)
    flip(checkpoint / STATE, 80)
    (checkpoint / "hf" / "config.json").unlink()
    everything = damage(checkpoint)
    shares = [damage(checkpoint, share=(number, 3)) for number in range(3)]
    assert sorted(sum(shares, [])) == sorted(everything)
    assert len(everything) == len(CheckpointRecord.read(checkpoint).parts[data.name]) + 2
    assert min(map(len, shares)) > 3


def cut(path, size):
    with path.open("r+b") as file:
        file.truncate(size)


DAMAGE = {
    "a bit of a tensor": lambda c: flip(tensor_file(c), 8 * tensor_file(c).stat().st_size // 2),
    "the end of a tensor file": lambda c: cut(tensor_file(c), 1000),
    "an empty tensor file": lambda c: cut(tensor_file(c), 0),
    "a longer tensor file": lambda c: cut(tensor_file(c), tensor_file(c).stat().st_size + 1),
    "no tensor file": lambda c: tensor_file(c).unlink(),
    "a folder for a tensor file": lambda c: (tensor_file(c).unlink(), (c / "__0_0.distcp").mkdir()),
    "a pipe for a small file": lambda c: ((c / STATE).unlink(), os.mkfifo(c / STATE)),
    "truncated metadata": lambda c: cut(c / ".metadata", 100),
    "no metadata": lambda c: (c / ".metadata").unlink(),
    "no metadata.json": lambda c: (c / "metadata.json").unlink(),
    "neither": lambda c: ((c / "metadata.json").unlink(), (c / DIGESTS).unlink()),
    "no state": lambda c: (c / STATE).unlink(),
    "another state": lambda c: shutil.copy(c.with_name(FIRST) / STATE, c),
    "a changed config.json": lambda c: (c / "hf" / "config.json").write_text("{}"),
    "no record": lambda c: (c / DIGESTS).unlink(),
    "a record cut off": lambda c: cut(c / DIGESTS, 50),
    "a record of nonsense": lambda c: (c / DIGESTS).write_text('["nothing"]'),
    "a record that is deep": lambda c: (c / DIGESTS).write_text("[" * 100_000),
    "another score": lambda c: (c / DIGESTS).write_text(
        (c / DIGESTS).read_text().replace('"highest":0.0', '"highest":1.0')
    ),
    "another checkpoint": lambda c: (
        shutil.rmtree(c),
        shutil.copytree(c.with_name(FIRST), c, copy_function=shutil.copy),
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_run_goes_on_from_the_one_before(two, checkpoints, make_actor, kind, capsys):
    folder, before = two
    DAMAGE[kind](folder / SECOND)
    left = {path.name for path in (folder / SECOND).iterdir()}
    actor = make_actor()
    point = checkpoints().load_latest(actor)
    assert (point.step, point.source) == (1, {"cursor": [1]})
    for name, weight in before.items():
        assert weight.equal(actor.parameters()[name]), name
    said = capsys.readouterr().err
    assert f"{folder / SECOND} is damaged: " in said
    assert f"set aside as damaged_{SECOND}; the run goes on from {folder / FIRST}" in said
    assert {path.name for path in (folder / f"damaged_{SECOND}").iterdir()} == left
    assert (folder / "latest_checkpointed_iteration.txt").read_text() == "1"
    # The step is done again, and a second time goes wrong.
    checkpoints().save(2, actor, {})
    cut(folder / SECOND / ".metadata", 10)
    assert checkpoints().load_latest(actor).step == 1
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {FIRST, f"damaged_{SECOND}", f"damaged_{SECOND}_2"}


def test_told_to_stop_nothing_is_changed(two, checkpoints, make_actor):
    folder, _ = two
    flip(tensor_file(folder / SECOND), 12345)
    whole = tree(folder)
    with pytest.raises(InputError, match=r"iter_0000002 is damaged: __0_0.distcp: .* saved\. With"):
        checkpoints(on_damage="stop").load_latest(make_actor())
    assert tree(folder) == whole


def test_none_is_whole(two, checkpoints, make_actor):
    """It is refused, as often as it is tried: nothing is begun anew over what may be mended."""
    folder, _ = two
    (folder / FIRST / STATE).unlink()
    cut(tensor_file(folder / SECOND), 99)
    whole = tree(folder)
    for _ in range(2):
        with pytest.raises(InputError) as refused:
            checkpoints().load_latest(make_actor())
        assert "is whole: iter_0000002: __0_0.distcp has 99 bytes instead of" in str(refused.value)
        assert f"iter_0000001: {STATE} is missing" in str(refused.value)
        assert tree(folder) == whole


def test_a_sample_and_none_at_all(two, checkpoints, make_actor):
    """A sample has all small files and lengths, and finds a bit somewhere in the long run."""
    checkpoint = two[0] / SECOND
    record = CheckpointRecord.read(checkpoint)
    data = tensor_file(checkpoint)
    largest = max(record.parts[data.name], key=lambda part: part.length)
    flip(data, 8 * (largest.offset + largest.length // 2))
    found = sum(damage_of(checkpoint, "sample") != [] for _ in range(200))
    assert 0 < found < 100
    assert damage_of(checkpoint, "off") == []
    assert checkpoints(verify="off").load_latest(make_actor()).step == 2
    flip(checkpoint / ".metadata", 700)
    assert damage_of(checkpoint, "sample")[0].startswith(".metadata ")
    cut(checkpoint / ".metadata", 30)
    with pytest.raises(
        InputError, match=r"iter_0000002 cannot be loaded .* checkpoint.verify=full"
    ):
        checkpoints(verify="off").load_latest(make_actor())


def test_an_export_looks_at_what_it_reads(two, tmp_path):
    """Weights and small files; the optimizer's state does not matter to it."""
    checkpoint = two[0] / SECOND
    data = tensor_file(checkpoint)
    parts = CheckpointRecord.read(checkpoint).parts[data.name]
    of_optimizer = next(part for part in parts if part.tensor.startswith("optimizer."))
    of_model = next(part for part in parts if part.tensor == "embedding.word_embeddings.weight")
    flip(data, 8 * of_optimizer.offset + 2000)
    export(checkpoint, tmp_path / "model")
    kept = tree(tmp_path / "model")
    flip(data, 8 * of_model.offset + 8 * of_model.length // 2)
    with pytest.raises(InputError, match=r"iter_0000002 is damaged: .*embedding.word_embeddings"):
        export(checkpoint, tmp_path / "model")
    assert tree(tmp_path / "model") == kept
    export(checkpoint, tmp_path / "model", "off")
    assert tree(tmp_path / "model") != kept


def test_the_best_is_damaged(checkpoints, trained, capsys):
    actor, saved = trained(), checkpoints(keep_last=2)
    scores = {1: Score(1, 0.9, 50.0), 2: Score(2, 0.8, 40.0), 3: Score(3, 0.7, 30.0)}
    for number, score in scores.items():
        saved.save(number, actor, {}, score)
    flip(tensor_file(saved.folder / FIRST), 5000)
    whole = tree(saved.folder)
    with pytest.raises(InputError, match="iter_0000001, the best checkpoint, is damaged"):
        best_whole(saved.folder, checkpoints(on_damage="stop")._config)
    assert tree(saved.folder) == whole
    assert best_whole(saved.folder, saved._config) == scores[2]
    assert (saved.folder / f"damaged_{FIRST}").is_dir()
    assert "the best of the others is taken" in capsys.readouterr().err
    # Also for whoever goes on: what is shorter and as right as what is there is better.
    again = checkpoints()
    again.load_latest(actor)
    assert not again.is_best(Score(4, 0.75, 1.0))
    assert again.is_best(Score(4, 0.8, 39.0))


def test_from_where_the_same_command_goes_on(two, tmp_path):
    assert goes_on(two[0], 8) == f"the same command goes on from {two[0] / SECOND} (step 2 of 8)"
    assert "begins with the first step" in goes_on(tmp_path / "nothing", 8)


def test_convert_compares_a_checkpoint_with_its_digests(two):
    folder = two[0]
    done = verify_manifest(folder, lambda *_: lambda *_: None)
    assert done.differences == []
    assert done.nbytes == sum(path.stat().st_size for path in (folder / SECOND).glob("*.distcp"))
    flip(tensor_file(folder / SECOND), 99)
    (line,) = verify_manifest(folder, lambda *_: lambda *_: None).differences
    assert line.startswith("__0_0.distcp: ")
