"""No pickle of a stranger's folder runs, whatever the folder says that it is."""

import contextlib
import io
import os
import pickle
import resource
import shutil
import time
import zipfile
from functools import partial

import pytest
import torch
from strangers import Attack, archive, calls, metadata, saved, snapshot, torchscript
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from megaprune.errors import InputError
from megaprune.weights.files import config_of, pickled
from megaprune.weights.files.kind import FolderKind, kind_of

CALLS = calls("/nowhere")
QKV = "decoder.layers.self_attention.linear_qkv.weight"


def commands(folder, out, hf=None):
    """Every command of the converter that reads a folder."""
    yield ("inspect", folder)
    yield ("verify", folder)
    yield ("verify", folder, hf or folder)
    yield ("to-hf", "--megatron", folder, "--out", out)
    yield ("to-megatron", "--hf", folder, "--out", out)


@pytest.mark.parametrize("way", CALLS)
@pytest.mark.parametrize("whole", [True, False])
def test_metadata_that_calls(megatron, tmp_path, convert, way, whole):
    trace = tmp_path / "trace"
    data, _ = calls(trace)[way]
    if not whole:
        # In the midst of what is right: a pickle that the object's state is read from.
        good = (megatron / ".metadata").read_bytes()
        data = good[:2] + data.removeprefix(b"\x80\x02").removeprefix(b"\x80\x04")[:-1] + good[2:]
    (megatron / ".metadata").write_bytes(data)
    before = snapshot(tmp_path)
    for command in commands(megatron, tmp_path / "out"):
        done = convert(*command)
        assert done.status == 1
        assert done.err.lstrip().startswith("megaprune: error: ")
        assert done.err.strip().count("\n") == 0
        if command[0] == "inspect":
            assert CALLS[way][1] in done.err
            assert str(megatron / ".metadata") in done.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("way", CALLS)
def test_common_state_that_calls(megatron, tmp_path, convert, way):
    data, says = calls(tmp_path / "trace")[way]
    (megatron / "common.pt").write_bytes(saved(data))
    before = snapshot(tmp_path)
    done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out")
    assert done.status == 1
    assert says in done.err
    assert str(megatron / "common.pt") in done.err
    for command in commands(megatron, tmp_path / "out"):
        convert(*command)
    assert snapshot(tmp_path) == before


def test_what_is_not_known_is_passed_over_where_that_is_asked_for(hf, megatron, tmp_path, convert):
    trace, out = tmp_path / "trace", tmp_path / "out"
    metadata(megatron, lambda m: setattr(m, "planner_data", {"a": Attack(trace)}))
    state = {"iteration": 20, "rerun": [Attack(trace)], "args": {"seed": Attack(trace)}}
    torch.save(state, megatron / "common.pt")
    for command in commands(megatron, out):
        assert convert(*command).status == 1
    assert convert("inspect", megatron, "--trust").status == 0
    assert convert("to-hf", "--megatron", megatron, "--out", out, "--trust").status == 0
    assert convert("verify", hf, megatron, "--trust").status == 0
    assert convert("verify", megatron, "--trust").status == 0
    assert convert("verify", hf, out).status == 0
    assert not trace.exists()


SIGNS = {
    "config.json": lambda f: None,
    "an index alone": lambda f: (f / "config.json").rename(f / "model.safetensors.index.json"),
    "weights alone": lambda f: (f / "config.json").unlink(),
    "a broken link": lambda f: (
        (f / "config.json").unlink(),
        (f / "model.safetensors").unlink(),
        (f / "config.json").symlink_to("nowhere"),
    ),
    "a folder": lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
    "a file that is cut": lambda f: os.truncate(f / "config.json", 10),
    "a tracker beside": lambda f: (
        (f / "metadata.json").unlink(),
        (f / "latest_checkpointed_iteration.txt").write_text("1"),
    ),
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("trust", [[], ["--trust"]])
def test_a_folder_that_says_it_is_hugging_faces(hf, megatron, tmp_path, convert, sign, trust):
    """Its `.metadata` and common.pt are not even opened: they would be refused by name."""
    other = shutil.copytree(hf, tmp_path / "other")
    (hf / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (hf / ".metadata").write_bytes(pickle.dumps(Attack(tmp_path / "trace")))
    torch.save({"args": Attack(tmp_path / "trace")}, hf / "common.pt")
    shutil.copytree(megatron, hf / "iter_0000001")
    SIGNS[sign](hf)
    assert kind_of(hf) is FolderKind.HUGGING_FACE
    assert config_of(hf) == (hf if (hf / "config.json").is_file() else None)
    whole = sign in ("config.json", "a tracker beside")
    for command in commands(hf, tmp_path / "out", other):
        done = convert(*command, *(trust if command[0] != "to-megatron" else ()))
        assert (done.status == 0) == (
            whole
            and command[0] in ("inspect", "to-megatron")
            or (whole and command[:2] == ("verify", hf) and len(command) == 3)
        )
        assert "mkdir" not in done.text
        assert "common.pt" not in done.text
        if command[0] == "to-hf":
            assert f"{hf} is a Hugging Face model: it has " in done.err
    assert not (tmp_path / "trace").exists()


def test_what_a_folder_is(hf, megatron, tmp_path):
    assert kind_of(hf) is FolderKind.HUGGING_FACE
    assert kind_of(megatron) is FolderKind.CHECKPOINT
    assert kind_of(tmp_path) is FolderKind.OTHER
    assert kind_of(tmp_path / "nowhere") is FolderKind.OTHER
    assert kind_of(hf / "config.json") is FolderKind.OTHER
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("1")
    assert kind_of(tmp_path) is FolderKind.CHECKPOINTS


def test_a_run_whose_latest_checkpoint_is_a_hugging_face_folder(hf, tmp_path, convert):
    (hf / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (hf / ".metadata").write_bytes(pickle.dumps(Attack(tmp_path / "trace")))
    run = tmp_path / "run"
    run.mkdir()
    hf.rename(run / "iter_0000001")
    (run / "latest_checkpointed_iteration.txt").write_text("1")
    for command in commands(run, tmp_path / "out"):
        assert convert(*command).status == 1
    assert "is a Hugging Face model" in convert("inspect", run).err
    assert not (tmp_path / "trace").exists()


ARCHIVES = {
    "TorchScript, by torch": (torchscript, "is a TorchScript archive, which is a program"),
    "TorchScript, with constants alone": (
        lambda _: archive([("c/data.pkl", b"\x80\x02N."), ("c/constants.pkl", b"\x80\x02).")]),
        "is a TorchScript archive",
    ),
    "TorchScript, with code alone": (
        lambda _: archive([("c/data.pkl", b"\x80\x02N."), ("c/code/__torch__.py", b"import os")]),
        "is a TorchScript archive",
    ),
    "TorchScript, without a folder": (
        lambda _: archive([("data.pkl", b"\x80\x02N."), ("constants.pkl", b"\x80\x02).")]),
        "is a TorchScript archive",
    ),
    "saved by an old torch": (
        lambda f: old_save(f, {"iteration": 1}),
        "cannot be read: it is damaged, or was saved by a torch before 1.6",
    ),
    "a pickle alone": (lambda _: pickle.dumps({"args": 1}), "cannot be read"),
    "compressed": (
        lambda _: archive([("c/data.pkl", b"\x80\x02N.")], zipfile.ZIP_DEFLATED),
        "no archive that torch.save makes",
    ),
    "a bomb": (
        lambda _: archive([("c/data.pkl", bytes(100 << 20))], zipfile.ZIP_BZIP2),
        "no archive that torch.save makes",
    ),
    "two pickles": (
        lambda _: archive([("c/data.pkl", b"\x80\x02N."), ("d/data.pkl", b"\x80\x02N.")]),
        "no archive that torch.save makes",
    ),
    "no pickle": (lambda _: archive([("c/version", b"3")]), "has no 'data.pkl'"),
    "empty": (lambda _: archive([]), "no archive that torch.save makes"),
    "an archive inside": (lambda _: saved(saved(b"\x80\x02N.")), "cannot be read"),
}


def old_save(folder, content):
    torch.save(content, folder / "old.pt", _use_new_zipfile_serialization=False)
    data = (folder / "old.pt").read_bytes()
    (folder / "old.pt").unlink()
    return data


@pytest.mark.filterwarnings(
    "ignore:.*jit.*:DeprecationWarning", "ignore:Duplicate name:UserWarning"
)
@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_torch_save_does_not_make(megatron, tmp_path, convert, name):
    make, says = ARCHIVES[name]
    content = make(tmp_path)
    (megatron / "common.pt").write_bytes(content)
    done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out")
    assert done.status == 1
    assert says in done.err
    assert str(megatron / "common.pt") in done.err
    # The same in the place of a tensor.
    (megatron / "common.pt").unlink()
    (megatron / "__0_1.distcp").write_bytes(content)

    def elsewhere(content_of):
        index = next(i for i in content_of.storage_data if i.fqn == QKV)
        content_of.storage_data[index] = _StorageInfo("__0_1.distcp", 0, len(content))

    metadata(megatron, elsewhere)
    done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out")
    assert done.status == 1
    assert f"__0_1.distcp: {QKV}" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", CALLS)
def test_a_tensor_that_calls(megatron, tmp_path, convert, way):
    data = saved(calls(tmp_path / "trace")[way][0], "archive")
    (megatron / "__0_1.distcp").write_bytes(data)

    def elsewhere(content):
        index = next(i for i in content.storage_data if i.fqn == QKV)
        content.storage_data[index] = _StorageInfo("__0_1.distcp", 0, len(data))

    metadata(megatron, elsewhere)
    before = snapshot(tmp_path)
    for trust in ([], ["--trust"]):
        done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out", *trust)
        assert done.status == 1
        assert f"__0_1.distcp: {QKV}" in done.err
    assert snapshot(tmp_path) == before


def of_tensor(**changed):
    """What torch.save writes of a tensor of two elements, with a change."""
    parts = {
        "storage": ("storage", pickled.Name("torch", "FloatStorage"), "0", "cpu", 2),
        "first": 0,
        "shape": (2,),
        "strides": (1,),
        **changed,
    }

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (
                Storage(),
                parts["first"],
                parts["shape"],
                parts["strides"],
                False,
                {},
            )

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                word, _, *rest = parts["storage"]
                return (word, torch.FloatStorage, *rest)
            return None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(Tensor())
    return archive([("a/data.pkl", buffer.getvalue()), ("a/data/0", bytes(8))])


@pytest.mark.parametrize(
    "changed",
    [
        {"first": -1}, {"first": 1}, {"first": 0.0}, {"first": True}, {"first": 1 << 70},
        {"strides": (2,)}, {"strides": (-1,)}, {"strides": ()}, {"strides": (1, 1)},
        {"shape": (3,)}, {"shape": (-2,)}, {"shape": (2.0,)}, {"shape": 2}, {"shape": None},
        {"storage": ("storage", None, "1", "cpu", 2)}, {"storage": ("tensor", None, "0", "cpu", 2)},
        {"storage": ("storage", None, "../0", "cpu", 2)}, {"storage": ("storage", None)},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_a_stored_tensor(tmp_path, changed):
    from megaprune.weights.files.archive import elements_of

    path = tmp_path / "part"
    path.write_bytes(of_tensor())
    found = elements_of(path, 0, path.stat().st_size, "it")
    assert (found.shape, found.strides, found.dtype) == ((2,), (1,), torch.float32)
    path.write_bytes(of_tensor(**changed))
    with pytest.raises(InputError, match="it "):
        elements_of(path, 0, path.stat().st_size, "it")


def nested(count):
    return b"\x80\x02)" + b"\x85" * count


BOMBS = {
    "memo with a place of two billion": b"\x80\x02Nr" + (2**31 - 1).to_bytes(4, "little") + b".",
    "text of an exabyte": b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"abc",
    "bytes of an exabyte": b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"abc",
    "bytearray of an exabyte": b"\x80\x05\x96" + (1 << 60).to_bytes(8, "little") + b"abc",
    "frame of an exabyte": b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"N.",
    "number of ten million digits": b"\x80\x02\x8b" + (5 << 20).to_bytes(4, "little")
    + b"\x7f" * (5 << 20) + b".",
    "number in words": b"L" + b"9" * 2_000_000 + b"L\n.",
    "tuple in tuples": nested(1_000_000) + b".",
    "tuple in tuples as a key": b"\x80\x02}" + nested(1_000_000)[2:] + b"Ns.",
    "a tuple of itself twice, 60 times, as a key": b"\x80\x02})" + b"2\x86" * 60 + b"Ns.",
    "a list of itself twice, 60 times": b"\x80\x02]" + b"q\x00]h\x00ah\x00a" * 60 + b".",
    "lists for ever": b"\x80\x02" + b"]" * 2_000_000,
    "a mark of marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
    "nothing on the stack": b"\x80\x020.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("place", [".metadata", "common.pt"])
def test_bombs(megatron, tmp_path, convert, name, place):
    data = BOMBS[name]
    (megatron / place).write_bytes(data if place == ".metadata" else saved(data))
    began = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = convert("to-hf", "--megatron", megatron, "--out", tmp_path / "out", "--json")
    assert time.process_time() - began < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    assert done.err.count("\n") == done.status
    if place == ".metadata":
        assert done.status == 1
        assert str(megatron / place) in done.err


def test_a_pickle_of_too_many_steps(monkeypatch):
    monkeypatch.setattr(pickled, "_STEPS", 1000)
    known = bool
    assert pickled.read_pickle(b"\x80\x02" + b"N0" * 400 + b"N.", "it", known) is None
    with pytest.raises(InputError, match="it cannot be read.*more than 1000 steps"):
        pickled.read_pickle(b"\x80\x02" + b"N0" * 500 + b"N.", "it", known)


def test_a_class_is_not_changed_by_a_state(megatron, tmp_path, convert):
    """BUILD on a class would set its attributes, for the whole process."""
    state = pickle.dumps((None, {"planted": 1}), 2)[2:-1]
    name = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"
    (megatron / ".metadata").write_bytes(b"\x80\x02" + name + state + b"b.")
    assert convert("inspect", megatron).status == 1
    assert not hasattr(Metadata, "planted")


def test_names_in_errors_cannot_command_a_terminal(megatron, tmp_path, convert):
    metadata(
        megatron,
        lambda m: m.state_dict_metadata.update(
            {"\x1b]0;x\x07[/b][red]": m.state_dict_metadata[QKV]}
        ),
    )
    for command in commands(megatron, tmp_path / "out"):
        done = convert(*command)
        assert "\x1b" not in done.out + done.err
        assert "\x07" not in done.out + done.err
    shutil.rmtree(megatron / "hf")

    def moved(content):
        for index, place in list(content.storage_data.items()):
            if index.fqn == QKV:
                del content.storage_data[index]
                content.storage_data[MetadataIndex("[/b][red]", index.offset)] = place
        content.state_dict_metadata = {
            name.replace(QKV, "[/b][red]"): stored
            for name, stored in content.state_dict_metadata.items()
            if "\x1b" not in name
        }

    metadata(megatron, moved)
    seen = convert("inspect", megatron)
    assert seen.status == 0
    assert "[/b][red]" in seen.out


@pytest.mark.parametrize(
    "way",
    ["a function", "protocol 2", "eval", "a command", "another module", "a pickle inside",
     "a dotted name", "step INST", "step OBJ"],
)  # fmt: skip
def test_the_ways_do_call(tmp_path, monkeypatch, way):
    """Python's own pickle is taken in by them: the tests above could fail."""
    # Megatron-core 0.19 replaces torch's function by a safe one in every process that imports it.
    load = partial(torch.load, weights_only=False)
    monkeypatch.setattr(torch.storage, "_load_from_bytes", lambda data: load(io.BytesIO(data)))
    with contextlib.suppress(RuntimeError):  # what comes back is no storage
        pickle.loads(calls(tmp_path / "trace")[way][0])
    assert (tmp_path / "trace").is_dir()
