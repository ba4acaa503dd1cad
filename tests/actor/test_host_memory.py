"""Storages that leave the device and come back; on a CPU both are the host's memory."""

import torch

from megaprune.actor import host_memory
from megaprune.actor.host_memory import OffloadedStorages


def make_tensors():
    """A buffer with two views of it, and tensors of other types and sizes, some in one storage."""
    buffer = torch.arange(100.0)
    rng = torch.Generator().manual_seed(0)
    single = torch.randn(7, 3, generator=rng).to(torch.bfloat16)
    number = torch.tensor(5, dtype=torch.int64)
    return [buffer[:60].view(6, 10), buffer[61:], single, single.T, number], buffer


def emptied(tensors):
    return [tensor.untyped_storage().nbytes() == 0 for tensor in tensors]


def lies_in(storages, tensor):
    """Whether a tensor is bytes of the host's memory that storages were copied to."""
    address = tensor.untyped_storage().data_ptr()
    return address in {buffer.data.untyped_storage().data_ptr() for buffer in storages._buffers}


def test_storages_are_emptied_and_come_back_with_all_views():
    tensors, buffer = make_tensors()
    expected = [tensor.clone() for tensor in tensors]
    keys = [tensor.untyped_storage()._cdata for tensor in tensors]
    whole, storages = buffer.clone(), OffloadedStorages()
    storages.offload(tensors)
    assert all(emptied([*tensors, buffer]))
    assert all(map(torch.equal, map(storages.on_host, tensors), expected))
    assert all(lies_in(storages, storages.on_host(tensor)) for tensor in tensors)
    storages.offload(tensors)  # changes nothing
    storages.reload()
    assert all(map(torch.equal, tensors, expected))
    assert torch.equal(buffer, whole)  # what no tensor of the list looks at is back, too
    assert [tensor.untyped_storage()._cdata for tensor in tensors] == keys
    assert not any(lies_in(storages, tensor) for tensor in tensors)
    tensors[0][1, 2] = -1.0
    assert buffer[12] == -1.0


def test_redirected_tensors_show_the_bytes_of_the_host():
    tensors, _ = make_tensors()
    _, second, single, turned, _ = tensors
    expected, alias = [t.clone() for t in tensors], single.detach()
    storages = OffloadedStorages()
    storages.offload(tensors, [second, single, single, turned])
    for tensor, values in zip((second, single, turned), (expected[1], *expected[2:4]), strict=True):
        assert torch.equal(tensor, values)
        assert lies_in(storages, tensor)
    assert emptied([alias]) == [True]
    storages.reload()
    assert all(map(torch.equal, tensors, expected))
    single.add_(1)
    assert torch.equal(alias, single)  # they share a storage again


def test_the_memory_of_the_host_is_used_again():
    tensors, _ = make_tensors()
    storages = OffloadedStorages()
    storages.offload(tensors)
    place = storages.on_host(tensors[2]).data_ptr()
    storages.reload()
    tensors[2].zero_()
    storages.offload(tensors)
    assert storages.on_host(tensors[2]).data_ptr() == place
    assert not storages.on_host(tensors[2]).any()
    storages.reload()
    more = [*tensors, torch.ones(10_000)]
    storages.offload(more)  # Adam's moments are there after the first step only
    assert all(emptied(more))
    storages.reload()
    assert more[-1].sum() == 10_000


def test_buffers_have_a_size_at_most(monkeypatch):
    monkeypatch.setattr(host_memory, "_BUFFER_BYTES", 1024)
    tensors = [torch.full((size,), float(size)) for size in (100, 100, 100, 1000, 3)]
    storages = OffloadedStorages()
    storages.offload(tensors)
    hosts = [storages.on_host(tensor).untyped_storage() for tensor in tensors]
    assert [h.nbytes() for h in hosts] == [1024, 1024, 512, 4096, 512]
    assert hosts[0]._cdata == hosts[1]._cdata
    storages.reload()
    assert all((tensor == len(tensor)).all() for tensor in tensors)


def test_a_storage_that_cannot_be_emptied_stays():
    seen = torch.ones(3)
    array = seen.numpy()
    storages = OffloadedStorages()
    storages.offload([seen, torch.ones(2)])
    assert torch.equal(seen, torch.ones(3))
    assert torch.equal(storages.on_host(seen), seen)
    storages.reload()
    seen[0] = 2
    assert array[0] == 2
