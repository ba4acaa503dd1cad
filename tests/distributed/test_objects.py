"""Objects among ranks: all of them arrive, over the hosts' network, in as few bytes as they have."""

import multiprocessing
import pickle
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg  # noqa: F401 (makes the backend known)

from megaprune.distributed import objects

RANKS, TIMEOUT = 4, timedelta(seconds=120)


def in_processes(folder, backend, job):
    """What `job` returns on each rank, and the tensors that it handed to collectives there."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def run(rank):
        store = dist.FileStore(f"{folder}/{backend}", RANKS)
        dist.init_process_group(backend, store=store, rank=rank, world_size=RANKS, timeout=TIMEOUT)
        objects.make_host_group(TIMEOUT)
        with Counted() as counted:
            result = job(rank)
        results.put((rank, result, counted.nbytes, counted.devices))
        dist.barrier(objects._group())

    processes = [context.Process(target=run, args=(rank,)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    found = {}
    while len(found) < RANKS:
        while not results._poll(0.2):
            assert all(process.exitcode in (None, 0) for process in processes), "a rank has failed"
        rank, *rest = results.get()
        found[rank] = rest
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [found[rank] for rank in range(RANKS)]


class Counted:
    """Bytes and devices of the tensors that collectives get, in this process."""

    def __enter__(self):
        self.nbytes, self.devices = 0, set()
        self.whole = dist.all_gather, dist.broadcast

        def all_gather(outputs, tensor, group=None):
            self.see(*outputs, tensor)
            return self.whole[0](outputs, tensor, group)

        def broadcast(tensor, source, group=None):
            self.see(tensor)
            return self.whole[1](tensor, source, group)

        dist.all_gather, dist.broadcast = all_gather, broadcast
        return self

    def see(self, *tensors):
        self.nbytes += sum(tensor.nbytes for tensor in tensors)
        self.devices |= {tensor.device.type for tensor in tensors}

    def __exit__(self, *_):
        dist.all_gather, dist.broadcast = self.whole


def own_object(rank):
    """Nothing of most ranks, and much of rank 1, as engines have it whose first rank alone grades."""
    return {"rank": rank, "tokens": np.arange(250_000) + rank} if rank == 1 else []


@pytest.mark.parametrize("backend", ["gloo", "fake"])
def test_all_ranks_get_what_each_has(tmp_path, backend):
    """Also where the default group moves nothing at all, in the place of NCCL: they do not use it."""
    expected = [own_object(rank) for rank in range(RANKS)]
    size = len(pickle.dumps(expected[1]))
    start = objects.START_BYTES + 8
    for gathered, nbytes, devices in in_processes(
        tmp_path, backend, lambda rank: objects.all_gather_object(own_object(rank))
    ):
        assert [type(one) for one in gathered] == [type(one) for one in expected]
        assert gathered[1]["rank"] == 1
        assert np.array_equal(gathered[1]["tokens"], expected[1]["tokens"])
        assert [gathered[0], *gathered[2:]] == [[], [], []]
        assert devices == {"cpu"}
        assert size < nbytes < size + (RANKS + 1) * start


def test_short_pickles_take_one_collective(tmp_path):
    start = objects.START_BYTES + 8
    for gathered, nbytes, _ in in_processes(tmp_path, "gloo", objects.all_gather_object):
        assert gathered == [0, 1, 2, 3]
        assert nbytes == (RANKS + 1) * start


@pytest.mark.parametrize("more", [-1, 0, 1, 100_000])
def test_objects_of_any_length_are_broadcast(tmp_path, more):
    """Those whose pickles end just before, at and behind what is sent at once."""
    overhead = len(pickle.dumps(b"x" * objects.START_BYTES, pickle.HIGHEST_PROTOCOL))
    text = b"x" * (2 * objects.START_BYTES - overhead + more)
    rest = len(pickle.dumps(text, pickle.HIGHEST_PROTOCOL)) - objects.START_BYTES
    assert rest == more or more > objects.START_BYTES
    for received, nbytes, devices in in_processes(
        tmp_path, "fake", lambda rank: objects.broadcast_from_rank0(text if rank == 0 else b"mine")
    ):
        assert received == text
        assert devices == {"cpu"}
        assert nbytes == objects.START_BYTES + 8 + max(0, rest)


def test_the_group_is_made_anew_for_another_default_group(tmp_path):
    """A group that has ended is not used."""

    def job(rank):
        torch.distributed.destroy_process_group()
        store = dist.FileStore(f"{tmp_path}/again", RANKS)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=TIMEOUT)
        return objects.all_gather_object(rank)

    assert [result for result, *_ in in_processes(tmp_path, "fake", job)] == [[0, 1, 2, 3]] * RANKS
