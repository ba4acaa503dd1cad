"""What the converters ask of a folder of weights, and a folder's weights in another layout."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch

from megaprune.errors import InputError
from megaprune.weights.boxes import Box, Shape
from megaprune.weights.copy_plan import Copy, plan
from megaprune.weights.layouts import Layout, Parameter
from megaprune.weights.model import Model
from megaprune.weights.untrusted import named

_CHECKED_AT_ONCE = 1 << 24  # elements
_SAMPLE = 1 << 16
_MANY_VANISH = 0.01
"""Elements of a tensor that are looked at for whether they become zero, and the share of them that
is many: a cast always rounds a few of the smallest to zero."""


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
    lost: str
    """What of the weights is left out of `model` although something says that it belongs to it."""

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
        self.vanished: dict[str, int] = {}
        """How many elements of a tensor became zero, where they are many."""
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
            part = self._part(*parts[0]).reshape(box.shape)
            self._check_cast(parts[0][1], part, converted := part.to(dtype))
            return converted
        whole = torch.zeros(box.shape, dtype=dtype)  # what no copy fills is padding
        for common, copy in parts:
            target = whole[common.within(box).slices]
            part = self._part(common, copy).reshape(target.shape)
            self._check_cast(copy, part, target.copy_(part))
        return whole

    def _part(self, target: Box, copy: Copy) -> torch.Tensor:
        source = target.carried(copy.target.box, copy.source.box)
        return self._weights.read(copy.source.parameter, source)

    def _check_cast(self, copy: Copy, before: torch.Tensor, after: torch.Tensor) -> None:
        """Raise an InputError if numbers became infinite; count those that became zero."""
        range_before, range_after = torch.finfo(before.dtype), torch.finfo(after.dtype)
        if range_after.max < range_before.max:
            # Both ends in one pass: ten times as fast as to ask each element.
            low, high = after.aminmax()
            if not (low.isfinite() and high.isfinite()):
                self._check_range(copy, after.dtype)
        if range_after.smallest_normal > range_before.smallest_normal:
            sample = (t.flatten()[:: max(1, t.numel() // _SAMPLE)] for t in (before, after))
            was, became = (t.count_nonzero().item() for t in sample)
            if was - became > was * _MANY_VANISH:
                lost = int(before.count_nonzero() - after.count_nonzero())
                name = copy.source.parameter
                self.vanished[name] = self.vanished.get(name, 0) + lost

    def _check_range(self, copy: Copy, dtype: torch.dtype) -> None:
        """Count the elements of a tensor that a type cannot hold; refuse it if there are any."""
        name, target = copy.source.parameter, copy.target.parameter
        boxes = [c.source.box for c in self._copies[target] if c.source.parameter == name]
        count, largest = 0, 0.0
        for band in (band for box in boxes for band in box.bands(_CHECKED_AT_ONCE)):
            values = self._weights.read(name, band)
            over = values.isfinite() & ~values.to(dtype).isfinite()
            if over.any():
                count += int(over.sum())
                largest = max(largest, values[over].abs().max().item())
        if count:
            raise InputError(
                f"tensor {name} (for {target}): {count} of {sum(box.size for box in boxes)} "
                f"elements are beyond {torch.finfo(dtype).max:g}, the most that "
                f"{dtype_name(dtype)} holds, up to {largest:g}, and would be infinite. Choose "
                f"another --dtype"
            )


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type without its module: "bfloat16" for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel or DeepSpeed",
    "_forward_module.": "Lightning Fabric",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "PEFT",
    "base_layer.": "PEFT",
}
"""What wraps a module, by the word that it puts before the names of its parameters."""

_WRAPPER = re.compile("|".join(rf"(?<![^.]){re.escape(word)}" for word in _WRAPPERS))


def otherwise_named(tensor: str, stored: Iterable[str]) -> str:
    """Say under which other name a tensor that is missing is stored; nothing if it is not there."""
    for name in stored:
        if name == tensor or not (name.endswith(tensor) or _WRAPPER.sub("", name) == tensor):
            continue
        words = list(dict.fromkeys(_WRAPPER.findall(name)))
        if not words:
            return f". {named(name)} is there: names of tensors begin otherwise"
        by = " and ".join(dict.fromkeys(_WRAPPERS[word] for word in words))
        cure = "merge the adapter (merge_and_unload) and save" if by == "PEFT" else "save"
        return (
            f". It is stored as {named(name)}: {' and '.join(words)} in names is what {by} adds. "
            f"From the program that has the model, {cure} the module that is wrapped, or take "
            f"{'it' if len(words) == 1 else 'them'} out of the names"
        )
    return ""


def check_shape(where: str, tensor: str, seen: Shape, expected: Shape) -> None:
    """Raise an InputError unless the shape is as the model's configuration has it."""
    if tuple(seen) != tuple(expected):
        raise InputError(
            f"{where}: tensor {tensor} has shape {list(seen)}; config.json makes it "
            f"{list(expected)}. The weights and the configuration are of different models"
        )
