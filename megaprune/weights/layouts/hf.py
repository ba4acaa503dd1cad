"""The logical layout: a Hugging Face checkpoint, every tensor whole, on one rank."""

from __future__ import annotations

from megaprune.weights.boxes import Box
from megaprune.weights.layouts.base import Layout, Parameter, Piece
from megaprune.weights.model import Model


def hf_layout(model: Model) -> Layout:
    """Lay out every tensor of `model` whole; which file it lies in is the folder's matter."""
    tensors = model.tensors()
    shard = tuple(
        Parameter(name, shape, (Piece(name, Box.whole(shape), Box.whole(shape)),))
        for name, shape in tensors.items()
    )
    return Layout(tensors, (shard,))
