"""Checkpoints of a real tiny actor: what comes back, what stays, and what is never half there."""

import json
import shutil

import pytest
import torch
from megatron.core import dist_checkpointing
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from megaprune.errors import InputError
from megaprune.files import machine
from megaprune.files.staging import STAGING_FORMAT
from megaprune.recipes.tiny import FOLDER
from megaprune.trainer.checkpoint import export
from megaprune.trainer.checkpoint_files import Best, Score, best_whole, latest_step
from megaprune.trainer.checkpoint_saving import HostCopies


def test_none_yet(checkpoints, make_actor):
    saved = checkpoints()
    assert saved.latest() is None
    assert saved.load_latest(make_actor()).step == 0


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["actor.frozen_layers=2"],
        ["actor.frozen_layers=3", "optimizer.distributed=true"],
    ],
)
def test_going_on_is_as_never_having_stopped(checkpoints, trained, make_actor, step, fields):
    """Weights, Adam's state, random numbers and the source, to the bit."""
    actor = trained(*fields)
    checkpoints().save(1, actor, {"cursor": [3, 4]})
    numbers = torch.rand(3)
    step(actor)

    other = make_actor(*fields)
    progress = checkpoints().load_latest(other)
    assert (progress.step, progress.source) == (1, {"cursor": [3, 4]})
    assert torch.rand(3).equal(numbers)
    step(other)
    for name, weight in actor.parameters().items():
        assert weight.equal(other.parameters()[name]), name


def test_what_belongs_to_a_checkpoint_is_written_before_it_has_its_name(
    checkpoints, trained, tmp_path
):
    seen = []

    def before_naming():
        seen.append(latest_step(tmp_path / "checkpoints"))
        if len(seen) == 2:
            raise InputError("cannot write the responses")

    actor, saved = trained(), checkpoints(before_naming)
    saved.save(1, actor, {})
    with pytest.raises(InputError, match="cannot write the responses"):
        saved.save(2, actor, {})
    assert seen == [0, 1]
    assert [path.name for path in (tmp_path / "checkpoints").glob("iter_*")] == ["iter_0000001"]


class CopiedBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are copied whole."""

    nbytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            self.nbytes += result.nbytes
        return result


@pytest.mark.parametrize(
    ("fields", "saved_of_each"), [([], 3), (["optimizer.distributed=true"], 4)]
)
def test_tensors_are_copied_once(checkpoints, trained, fields, saved_of_each):
    """Also those that are parts of others, such as the gate in the first matrix of an MLP.

    Weights and two moments are saved; the distributed optimizer has weights of its own.
    """
    actor, saved = trained(*fields), checkpoints(wait=False)
    with CopiedBytes() as copied:
        saved.save(1, actor, {})
    saved.finish()
    parameters = sum(p.nbytes for p in actor.parameters().values())
    assert copied.nbytes == pytest.approx(saved_of_each * parameters, rel=0.001)


def test_copies_of_a_gpus_tensors_use_the_memory_of_those_before():
    copies, tensor = HostCopies(), torch.randn(5, 7).to(torch.bfloat16)
    first = copies.of("a", tensor)
    assert first.equal(tensor)
    assert first.untyped_storage().nbytes() == tensor.nbytes  # a file would get all of a storage
    other = copies.of("b", tensor + 1)
    again = copies.of("a", tensor.t())  # not contiguous
    assert again.equal(tensor.t())
    assert again.data_ptr() == first.data_ptr() != other.data_ptr()
    assert other.equal(tensor + 1)
    assert copies.of("a", tensor.float()).equal(tensor.float())


def test_what_is_saved_is_the_state_when_it_was_begun(checkpoints, trained, step):
    actor, saved = trained(), checkpoints(wait=False)
    before = actor.weights()
    saved.save(1, actor, {})
    step(actor)
    saved.finish()
    other = trained()
    step(other)
    checkpoints().load_latest(other)
    for name, weight in before.items():
        assert weight.equal(other.parameters()[name]), name


def test_it_has_no_name_before_it_is_whole(checkpoints, trained):
    saved = checkpoints(wait=False)
    saved.save(1, trained(), {})
    assert saved.latest() is None
    assert latest_step(saved.folder) == 0
    saved.finish()
    assert saved.latest() == saved.folder / "iter_0000001"
    assert (saved.folder / "latest_checkpointed_iteration.txt").read_text() == "1"


def test_what_a_killed_run_left(checkpoints, trained):
    """Half a checkpoint, and one that was on its way out, are no checkpoints and go."""
    saved = checkpoints()
    saved.save(1, trained(), {})
    whole = saved.folder / "iter_0000001"
    for number, purpose in ((2, "folder"), (0, "removal")):
        target = f"iter_{number:07}"
        left = saved.folder / f".{target}.megaprune-{number:016x}"
        left.mkdir()
        owner = {"target": target, "purpose": purpose, "machine": machine(), "pid": 1, "started": 0}
        (left / "owner.json").write_text(json.dumps({"format": STAGING_FORMAT, **owner}))
        shutil.copytree(whole, left / ("new" if number else "old"))
    stranger = saved.folder / "iter_0000003.partial"
    stranger.mkdir()
    again = checkpoints()
    assert {path.name for path in saved.folder.iterdir()} == {
        "iter_0000001", "latest_checkpointed_iteration.txt", stranger.name
    }  # fmt: skip
    assert again.load_latest(trained()).step == 1


def test_the_last_ones_and_the_best_stay(checkpoints, trained):
    actor, saved = trained(), checkpoints(keep_last=1, keep_best=True, tie=0.0)
    scores = {1: Score(1, 0.5, 90.0), 2: Score(2, 0.9, 80.0), 3: Score(3, 0.7, 10.0), 4: None}
    kept = {}
    for number, score in scores.items():
        assert saved.is_best(score) == (number in (1, 2))
        saved.save(number, actor, {}, score)
        kept[number] = sorted(path.name[-1] for path in saved.folder.glob("iter_*"))
    assert kept == {1: ["1"], 2: ["2"], 3: ["2", "3"], 4: ["2", "4"]}
    assert Best.of(saved.folder, 0.0) == Best(0.0, scores[2], 0.9)
    assert best_whole(saved.folder, saved._config) == scores[2]
    # Remembered by whoever goes on.
    again = checkpoints(keep_last=1, tie=0.0)
    assert again.load_latest(actor).step == 4
    assert not again.is_best(Score(5, 0.85, 5.0))


def test_only_the_last_stay_also_when_a_run_goes_on(checkpoints, trained):
    actor, fields = trained(), {"keep_last": 1, "keep_best": False}
    checkpoints(**fields).save(1, actor, {}, Score(1, 0.9, 80.0))
    saved = checkpoints(**fields)
    saved.load_latest(actor)
    saved.save(2, actor, {}, Score(2, 0.5, 90.0))
    assert [path.name for path in saved.folder.glob("iter_*")] == ["iter_0000002"]


def test_one_that_does_not_know_its_source(checkpoints, trained):
    actor, saved = trained(), checkpoints()
    saved.save(1, actor, {})
    path = saved.folder / "iter_0000002"
    path.mkdir()
    run = {"step": 2, "random_numbers": []}
    dist_checkpointing.save({**actor.state(), "run": run}, str(path))
    with pytest.raises(InputError, match="iter_0000002 has no digests"):
        checkpoints().load_latest(actor)
    with pytest.raises(InputError, match="does not say which problems its run has had"):
        checkpoints(verify="off").load_latest(actor)


def test_it_is_a_model_of_hugging_faces(checkpoints, make_actor, step, tmp_path):
    """Of an actor that was trained with lr 0: the files that it was built from."""
    actor, saved = make_actor(), checkpoints()
    step(actor, lr=0.0)
    saved.save(1, actor, {})
    export(saved.latest(), tmp_path / "model")
    exported = load_file(tmp_path / "model" / "model.safetensors")
    original = load_file(FOLDER / "model" / "model.safetensors")
    assert exported.keys() == original.keys()
    for name, tensor in original.items():
        assert tensor.float().equal(exported[name].float()), name
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "model" / name).read_bytes() == (FOLDER / "model" / name).read_bytes()
