"""What rewards and losses are given."""

import numpy as np
import pytest
import torch

from megaprune.algorithms.records import BatchInfo, Group, LossBatch


def test_sequences_of_a_micro_batch():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    batch = LossBatch(values, values, {}, (0, 1, 1, 4), BatchInfo(9, 5))
    assert batch.lengths == [1, 0, 3]
    assert batch.sum_by_sequence(values).tolist() == [1.0, 0.0, 9.0]
    assert batch.mean_by_sequence(values).tolist() == [1.0, 0.0, 3.0]
    by_token = batch.to_tokens(torch.tensor([7.0, 8.0, 9.0]))
    assert by_token.tolist() == [7.0, 9.0, 9.0, 9.0]
    assert (batch.total_tokens, batch.total_sequences) == (9, 5)
    batch.mean_by_sequence(values).sum().backward()
    assert values.grad.tolist() == pytest.approx([1.0, 1 / 3, 1 / 3, 1 / 3])


def test_an_empty_micro_batch():
    nothing = torch.zeros(0)
    batch = LossBatch(nothing, nothing, {}, (0,), BatchInfo(1, 1))
    assert batch.lengths == []
    assert batch.sum_by_sequence(nothing).shape == (0,)
    assert batch.mean_by_sequence(nothing).shape == (0,)
    assert batch.to_tokens(torch.zeros(0)).shape == (0,)


def test_old_log_probs_are_the_policys_own_until_it_moves():
    log_probs = torch.tensor([-1.0], requires_grad=True)
    batch = LossBatch(log_probs, log_probs, {}, (0, 1), BatchInfo(1, 1))
    assert batch.old.tolist() == [-1.0]
    assert not batch.old.requires_grad
    with pytest.raises(ValueError, match="'old'.*`needs`"):
        _ = LossBatch(log_probs, log_probs, {}, (0, 1), BatchInfo(1, 1, policy_moved=True)).old


def test_batches_of_nothing():
    with pytest.raises(ValueError, match="0 scored tokens"):
        BatchInfo(0, 1)
    with pytest.raises(ValueError, match="0 sequences"):
        BatchInfo(1, 0)


def group(correct, length, finished, limit, **more):
    return Group(np.array(correct, bool), np.array(length), np.array(finished, bool), limit, **more)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([1, 0], [3], [1, 1], 4), r"\(2,\).*\(1,\).*\[K\]"),
        (([[1]], [[3]], [[1]], 4), r"\[K\]"),
        (([1], [3], [1], 0), "0 tokens"),
    ],
)
def test_groups_that_make_no_sense(args, message):
    with pytest.raises(ValueError, match=message):
        group(*args)


def test_texts_are_as_many_as_responses():
    assert group([1], [3], [1], 4, text=("a",)).text == ("a",)
    with pytest.raises(ValueError, match="2 texts of 1"):
        group([1], [3], [1], 4, text=("a", "b"))
