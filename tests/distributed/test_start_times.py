"""The parts of a start add up to the time since the command was typed."""

import os
import time

import pytest

from megaprune.distributed import start_times


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("MEGAPRUNE_BEGAN", None)
    yield
    start_times.take()


def test_parts_add_up_from_the_beginning_of_the_process():
    before = start_times._process_began()
    start_times.begin()
    start_times.lap("imports")
    time.sleep(0.05)
    start_times.lap("model")
    start_times.lap("imports")
    whole, parts = time.time() - before, start_times.take()
    assert list(parts) == ["imports", "model"]
    assert parts["model"] >= 0.05
    assert sum(parts.values()) == pytest.approx(whole, abs=0.1)


def test_a_process_counts_what_came_before_it_as_the_launch():
    began = start_times._process_began()
    os.environ["MEGAPRUNE_BEGAN"] = str(began - 7.5)
    start_times.begin()
    start_times.lap("imports")
    assert start_times.take()["launch"] == pytest.approx(7.5, abs=0.1)


def test_without_a_beginning_the_first_lap_is_one():
    """As in a notebook, and in the later rounds of a pruning."""
    start_times.lap("imports")
    start_times.lap("model")
    assert list(start_times.take()) == ["model"]
    start_times.lap("imports")
    assert start_times.take() == {}


def test_the_process_began_before_now():
    psutil = pytest.importorskip("psutil")
    assert start_times._process_began() == pytest.approx(psutil.Process().create_time(), abs=1)
