"""Log-probs without logits: numbers, gradients and memory."""

import pytest
import torch

from launch import launch
from megaprune.actor.logprobs import log_probs


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_equal_the_dense_computation(ranks):
    lines = launch(ranks, "logprobs_worker.py")
    certain = [line["certain"] for line in lines if "certain" in line]
    assert len(certain) == 3 * 2
    assert max(certain) <= 5e-7
    lines = [line for line in lines if "certain" not in line]
    assert len(lines) == 2 * 3 * 2 * 2
    for line in lines:
        exact = line["dtype"] == "torch.float32"
        print(line)
        assert line["log_probs"] <= (1e-6 if exact else 3e-2)
        assert line["entropy"] <= (1e-6 if exact else 3e-2)
        assert line["hidden"] <= (1e-6 if exact else 3e-2)
        assert line["weight"] <= (1e-6 if exact else 3e-2)
        assert line["padding"] == 0
        assert line["untouched"]


def test_gradcheck():
    torch.manual_seed(0)
    hidden = torch.randn(5, 3)
    weight = torch.randn(7, 3)
    targets = torch.randint(0, 6, (5,))

    def value(h, w):
        said = log_probs(h, w, targets, vocab=6, temperature=0.8, chunk_bytes=50)
        return said.log_probs.sum() * 0.3 + (said.entropy**2).sum()

    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    value(h, w).backward()
    step = 1e-2
    for tensor, grad in ((hidden, h.grad), (weight, w.grad)):
        for index in range(tensor.numel()):
            shifted = [tensor.clone(), tensor.clone()]
            shifted[0].view(-1)[index] += step
            shifted[1].view(-1)[index] -= step
            ends = [value(x, weight) if tensor is hidden else value(hidden, x) for x in shifted]
            slope = (ends[0] - ends[1]) / (2 * step)
            assert abs(slope - grad.view(-1)[index]) < 2e-3


def test_only_one_of_the_two_results_may_be_used():
    hidden = torch.randn(4, 3, requires_grad=True)
    weight = torch.randn(6, 3, requires_grad=True)
    targets = torch.tensor([0, 5, 2, 1])
    p = (hidden @ weight.t()).log_softmax(-1)
    for name, dense in (
        ("log_probs", p.gather(1, targets[:, None]).sum()),
        ("entropy", -(p.exp() * p).sum()),
    ):
        said = log_probs(hidden, weight, targets, vocab=6)
        (seen,) = torch.autograd.grad(getattr(said, name).sum(), hidden)
        (expected,) = torch.autograd.grad(dense, hidden, retain_graph=True)
        assert torch.allclose(seen, expected, atol=1e-6)


def test_logits_of_all_tokens_never_exist():
    """The largest tensor that autograd or the function makes is a chunk, or the weight."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                seen.append(out.untyped_storage().nbytes())
            return out

    tokens, vocab = 2000, 5000
    hidden = torch.randn(tokens, 8, requires_grad=True)
    weight = torch.randn(vocab, 8, requires_grad=True)
    targets = torch.randint(0, vocab, (tokens,))
    with Watch():
        said = log_probs(hidden, weight, targets, vocab=vocab, chunk_bytes=1 << 20)
        (said.log_probs.sum() + said.entropy.sum()).backward()
    assert seen
    assert max(seen) <= 1 << 20 < tokens * vocab * 4 / 30
