"""What the forward pass keeps for the backward pass, and what both need meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from megaprune.planner.machine import LOGIT_CHUNK_BYTES
from megaprune.weights.model import Model


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch on one rank.

    Args:
        tokens: of it.
        tp, sequence, recompute: as in the fields of the actor.
        size: bytes of an element.
        fused: with Transformer Engine's kernels, as on a GPU; else with torch's, as on a CPU.
    """

    model: Model
    tokens: int
    tp: int
    sequence: bool
    recompute: str
    size: int
    fused: bool = True

    @property
    def between(self) -> int:
        """Bytes of the hidden states between layers: tokens x hidden (/ tp with sequence)."""
        return self.whole // (self.tp if self.sequence else 1)

    @property
    def whole(self) -> int:
        """Bytes of the hidden states of all tokens: tokens x hidden."""
        return self.tokens * self.model.hidden * self.size

    @property
    def norm(self) -> int:
        """Bytes that a norm keeps: its input; torch's on a CPU two fp32 copies."""
        return self.between if self.fused else 2 * self.between * 4 // self.size

    def layer(self, recompute: str) -> int:
        """Bytes that a layer keeps.

        full: its input. Otherwise what its two norms keep and, in elements of each token:

        - 2 hidden (/ tp with sequence), what the norms give out;
        - (3 q + 3 kv) / tp: rotated queries and keys; queries, keys and values as they were
          projected, of which the values are a part; what attention gives out;
        - 3 ffn / tp: gate, up and their product;
        - torch's own kernels: 4 head_dim of angles and 2 ffn / tp (silu(gate), a copy of up).

        Besides, unless core_attention: 4 bytes for each token and head / tp (attention's
        normaliser); on a CPU, what attention gives out of each sequence by itself.
        """
        if recompute == "full":
            return self.between
        m, tokens = self.model, self.tokens
        query, key = m.heads * m.head_dim, m.kv_heads * m.head_dim
        divided = 3 * query + 3 * key + (3 if self.fused else 5) * m.ffn
        if recompute == "none" and not self.fused:
            divided += query
        kept = 2 * self.norm + 2 * self.between + tokens * divided * self.size // self.tp
        if not self.fused:
            kept += tokens * 4 * m.head_dim * self.size
        if recompute == "none":
            kept += tokens * m.heads * 4 // self.tp
        return kept

    def kept(self, layers: int, last: bool) -> int:
        """Bytes that some layers of a stage keep of this micro-batch.

        Each layer's; the angles (4 bytes x tokens x head_dim); what the stage gives out. The last
        stage instead of that: what the final norm keeps, and for the log-probs the hidden states
        of all scored tokens (here: of all tokens), with 32 bytes of ids and numbers of each.
        """
        kept = layers * self.layer(self.recompute) + 4 * self.tokens * self.model.head_dim
        return kept + (self.norm + self.whole + 32 * self.tokens if last else self.between)

    def working(self, last: bool) -> int:
        """Bytes that come and go while a gradient is computed, at the most.

        A layer's backward pass: what it keeps, if that is computed again (full); gradients of gate
        and up (2 ffn / tp) and of two hidden states, and with sequence the gathered states too. Or,
        in the last stage, that of the log-probs: 4 chunks of fp32 logits (32 MiB each) and the
        gradients of the hidden states. Whichever is more.
        """
        again = self.layer("none") - self.between if self.recompute == "full" else 0
        all_gather_object = 1 if self.sequence and self.tp > 1 else 0
        layer = again + (2 + all_gather_object) * self.whole
        layer += self.tokens * 2 * self.model.ffn * self.size // self.tp
        head = 4 * LOGIT_CHUNK_BYTES + (2 + all_gather_object) * self.whole if last else 0
        return max(layer, head)


def in_flight(stages: int, stage: int, chunks: int, micro_batches: int) -> int:
    """Chunks of micro-batches whose activations a stage holds at once.

    One forward, one backward: stages - stage. Interleaved: 2 x (stages - stage - 1) + (chunks - 1)
    x stages + 1. Never more than there are.
    """
    if stages == 1:
        return 1
    ahead = stages - stage
    if chunks > 1:
        ahead = 2 * (stages - stage - 1) + (chunks - 1) * stages + 1
    return min(ahead, micro_batches * chunks)
