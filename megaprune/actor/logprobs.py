"""Log-probabilities and entropies of a vocabulary-parallel output layer, without its logits.

Logits exist for one chunk of tokens at a time, in the forward pass and again in the backward pass;
what is kept in between is a few numbers per token (and, where all logits are few, those). With T
tokens and V / tp rows of vocabulary on a rank, extra memory is O(T + chunk * V / tp), not
O(T * V / tp).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
"""Size of the fp32 logits of one chunk of tokens, by type of device (see planner/hardware.py)."""
# On an H100, 8192 tokens x 19008 rows take 12.7 ms from materialised logits, and in chunks of 32,
# 128, 512 and 2048 MiB 34.7, 20.1, 15.2 and 14.4 ms; 32768 x 152064: no room, 4.1, 1.2, 0.7, 0.6 s.

_KEPT_CHUNKS = 2
"""Where all logits are no more than so many chunks, as on a laptop, they are not computed again."""

_WEIGHT_ROWS = 1024
"""How many rows of a bf16 weight's gradient are computed at once before they are added in fp32."""


class LogProbs(NamedTuple):
    """What the model says of each scored token, fp32 vectors of shape [N].

    Args:
        log_probs: log p(token | tokens before it), at the temperature that was asked for.
        entropy: of the distribution that the token was drawn from, in nats.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor


def log_probs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocab: int,
    temperature: float = 1.0,
    group: dist.ProcessGroup | None = None,
    chunk_bytes: int | None = None,
) -> LogProbs:
    """Log-probs and entropies from hidden states; differentiable in `hidden` and `weight`.

    The gradient of `hidden` is this rank's part: the ranks' parts are to be summed, as behind any
    column-parallel layer. A weight that has a `main_grad` (Megatron-core's fp32 gradient buffer)
    has its gradient added there, and gets none from autograd.

    Args:
        hidden: [N, H], the same on all ranks of `group`.
        weight: [V / tp, H], this rank's rows of the output layer, padding rows included.
        targets: [N] int64 token ids, the same on all ranks.
        vocab: rows of the vocabulary without padding; padding has no probability.
        temperature: logits are divided by it.
        group: the ranks that share the vocabulary; None if this rank has all of it.
        chunk_bytes: of fp32 logits at once; None for `CHUNK_BYTES` of the device.

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}; log-probs need a positive one")
    chunk_bytes = chunk_bytes or CHUNK_BYTES[hidden.device.type]
    rank = dist.get_rank(group) if group is not None else 0
    first = rank * weight.shape[0]
    rows = max(0, min(weight.shape[0], vocab - first))
    chunk = max(1, chunk_bytes // (4 * max(1, rows)))
    local = targets - first
    keep = targets.numel() * rows * 4 <= _KEPT_CHUNKS * chunk_bytes
    settings = _Settings(rows, 1.0 / temperature, chunk, keep, group)
    return LogProbs(*_LogProbs.apply(hidden, weight, local, settings))


class _Settings(NamedTuple):
    rows: int  # of the vocabulary on this rank, without padding
    scale: float
    chunk: int
    keep: bool  # the logits, for the backward pass
    group: dist.ProcessGroup | None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        local: torch.Tensor,
        settings: _Settings,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count = hidden.shape[0]
        # Of this rank's logits z, for each token: the largest; then, with e = exp(z - largest),
        # sum(e), sum(e * z) and the target's z (0 where another rank has the target).
        largest = hidden.new_full((count,), -torch.inf, dtype=torch.float32)
        sums = hidden.new_zeros((3, count), dtype=torch.float32)
        mine = (local >= 0) & (local < settings.rows)
        column = local.clamp(0, max(0, settings.rows - 1))
        kept: dict[int, torch.Tensor] = {}
        for part in _chunks(count, settings) if settings.rows else ():
            z = _logits(hidden[part], weight, settings)
            torch.amax(z, 1, out=largest[part])
            target = z.gather(1, column[part, None])[:, 0]
            sums[2, part] = torch.where(mine[part], target, 0.0)
            shifted = z.sub_(largest[part, None])
            e = shifted.exp()
            sums[0, part] = e.sum(1)
            sums[1, part] = e.mul_(shifted).sum(1)
            if settings.keep:
                kept[part.start] = shifted
            del z, shifted, e  # before the next chunk has its own
        total = largest.clone()
        if settings.group is not None:
            dist.all_reduce(total, dist.ReduceOp.MAX, settings.group)
        # To the common largest: z - total = (z - largest) + (largest - total).
        down = (largest - total).exp()
        below = torch.where(sums[0] > 0, largest - total, 0.0)
        sums[1] = (sums[1] + below * sums[0]) * down
        sums[0] *= down
        if settings.group is not None:
            dist.all_reduce(sums, group=settings.group)
        normaliser = sums[0].log()
        mean = sums[1] / sums[0]  # of z - total under the distribution
        # Total and normaliser stay apart: of a token that is nearly certain the second is tiny, and
        # would be rounded away beside the first.
        ctx.save_for_backward(hidden, weight, column, mine, total, normaliser, mean)
        ctx.settings, ctx.kept, ctx.largest = settings, kept, largest if kept else None
        ctx.set_materialize_grads(False)
        return sums[2] - total - normaliser, normaliser - mean

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        of_log_probs, of_entropy = grads
        hidden, weight, column, mine, total, normaliser, mean = ctx.saved_tensors
        settings: _Settings = ctx.settings
        if of_log_probs is None:
            of_log_probs = torch.zeros_like(total)
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if want_hidden else None
        main = getattr(weight, "main_grad", None)
        grad_weight = None
        if want_weight:
            # fp32 while it is added up, whatever the weight is.
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if main is None else main
        for part in _chunks(hidden.shape[0], settings) if settings.rows else ():
            # d log p(t) / d z = [t] - p,  d entropy / d z = -p * (log p + entropy)
            z = ctx.kept.pop(part.start, None)
            if z is None:
                z, below = _logits(hidden[part], weight, settings), 0.0
            else:
                below = ctx.largest[part]
            z.sub_((total[part] - below)[:, None])
            p = (z - normaliser[part, None]).exp_()
            slope = -of_log_probs[part, None]
            if of_entropy is not None:
                slope = z.sub_(mean[part, None]).mul_(-of_entropy[part, None]).add_(slope)
            p.mul_(slope)
            p.scatter_add_(1, column[part, None], (of_log_probs[part] * mine[part])[:, None])
            g = p.mul_(settings.scale).to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = g @ weight[: settings.rows]
            if grad_weight is not None:
                _add_outer(grad_weight[: settings.rows], g, hidden[part])
            del z, p, slope, g  # before the next chunk has its own
        if main is not None:
            grad_weight = None
        elif grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None


def _chunks(count: int, settings: _Settings) -> list[slice]:
    return [slice(i, min(count, i + settings.chunk)) for i in range(0, count, settings.chunk)]


def _logits(hidden: torch.Tensor, weight: torch.Tensor, settings: _Settings) -> torch.Tensor:
    """fp32 logits of some tokens, without padding columns, divided by the temperature."""
    return (hidden @ weight[: settings.rows].t()).float().mul_(settings.scale)


def _add_outer(total: torch.Tensor, grad: torch.Tensor, hidden: torch.Tensor) -> None:
    """total [V, H] += grad [n, V].T @ hidden [n, H], added in the dtype of `total`."""
    if grad.dtype == total.dtype:
        total.addmm_(grad.t(), hidden)
        return
    for row in range(0, total.shape[0], _WEIGHT_ROWS):
        rows = slice(row, row + _WEIGHT_ROWS)
        total[rows] += grad[:, rows].t() @ hidden
