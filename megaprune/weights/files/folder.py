"""What the converters ask of a folder of weights, and a folder's weights in another layout."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import torch

from megaprune.errors import InputError
from megaprune.weights.boxes import Box, Shape
from megaprune.weights.copy_plan import Copy, plan
from megaprune.weights.layouts import Layout, Parameter
from megaprune.weights.model import Model


class Weights(Protocol):
    """The weights of a model in any layout of a single rank."""

    @property
    def layout(self) -> Layout:
        """Say where the logical tensors lie."""

    def dtype(self, parameter: str) -> torch.dtype:
        """Return the element type of a parameter."""

    def read(self, parameter: str, box: Box) -> torch.Tensor:
        """Return elements of a parameter, of shape `box.shape`; not to be written to."""


class Folder(Weights, Protocol):
    """A folder that holds a model."""

    path: Path
    format: str
    config: dict[str, Any]
    model: Model
    notes: list[str]
    """What a user should know about the folder although nothing is wrong."""

    def side_files(self) -> dict[str, Path]:
        """Return the files of the Hugging Face model besides its weights, by name."""


class Rearranged:
    """`weights` as they are in another layout, built band by band as they are read.

    Args:
        weights: where the elements come from.
        layout: a layout of the same model with one rank.
        dtype: elements are converted to this; left as they are if None.
    """

    def __init__(self, weights: Weights, layout: Layout, dtype: torch.dtype | None = None):
        self.layout = layout
        self._weights = weights
        self._dtype = dtype
        self._parameters = {p.name: p for p in layout.ranks[0]}
        self._copies: dict[str, list[Copy]] = defaultdict(list)
        for copy in plan(weights.layout, layout).copies:
            self._copies[copy.target.parameter].append(copy)

    def parameters(self) -> list[Parameter]:
        """Return every parameter, in the layout's order."""
        return list(self._parameters.values())

    def nbytes(self) -> int:
        """Count the bytes of all parameters, padding included."""
        return sum(p.size * self.dtype(p.name).itemsize for p in self.parameters())

    def dtype(self, parameter: str) -> torch.dtype:
        """Return the element type of a parameter.

        Raises:
            InputError: the parameter would be put together from tensors of different types.
        """
        if self._dtype is not None:
            return self._dtype
        sources: dict[torch.dtype, str] = {}
        for copy in self._copies[parameter]:
            source = copy.source.parameter
            sources.setdefault(self._weights.dtype(source), source)
        if len(sources) > 1:
            seen = ", ".join(f"{name} is {dtype_name(dtype)}" for dtype, name in sources.items())
            raise InputError(
                f"{parameter} is one tensor made of tensors of different types: {seen}. "
                f"Choose one type for all with --dtype"
            )
        return next(iter(sources))

    def read(self, parameter: str, box: Box) -> torch.Tensor:
        """Return elements of a parameter; a view of the source where its memory has that order."""
        dtype = self.dtype(parameter)
        parts = [
            (common, copy)
            for copy in self._copies[parameter]
            if (common := copy.target.box.intersect(box))
        ]
        if len(parts) == 1 and parts[0][0] == box:
            return self._part(*parts[0]).reshape(box.shape).to(dtype)
        whole = torch.zeros(box.shape, dtype=dtype)  # what no copy fills is padding
        for common, copy in parts:
            target = whole[common.within(box).slices]
            target.copy_(self._part(common, copy).reshape(target.shape))
        return whole

    def _part(self, target: Box, copy: Copy) -> torch.Tensor:
        source = target.carried(copy.target.box, copy.source.box)
        return self._weights.read(copy.source.parameter, source)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type without its module: "bfloat16" for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def check_shape(where: str, tensor: str, seen: Shape, expected: Shape) -> None:
    """Raise an InputError unless the shape is as the model's configuration has it."""
    if tuple(seen) != tuple(expected):
        raise InputError(
            f"{where}: tensor {tensor} has shape {list(seen)}; config.json makes it "
            f"{list(expected)}. The weights and the configuration are of different models"
        )
