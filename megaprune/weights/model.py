"""A model's shape, read from a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaprune.errors import InputError
from megaprune.weights import rope
from megaprune.weights.boxes import Shape
from megaprune.weights.families import (
    FAMILIES,
    GENERATION_KEYS,
    HARMLESS_KEYS,
    Family,
    TableRow,
    config_problems,
    value_problems,
)
from megaprune.weights.untrusted import (
    check_stays_in,
    is_whole,
    named,
    read_json_object,
    shown,
)

LARGEST = {
    "num_hidden_layers": 1024,
    "hidden_size": 1 << 18,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1 << 13,
    "num_key_value_heads": 1 << 13,
    "head_dim": 1 << 13,
    "vocab_size": 1 << 23,
}
"""The largest numbers that are taken: many times those of any model, and quickly laid out."""


@dataclass(frozen=True)
class Model:
    """The family of a model, and the numbers that fix the shape of every weight.

    Args:
        family: the table of the architecture.
        layers, hidden, ffn, heads, kv_heads, head_dim, vocab: counts; `vocab` is without padding.
        tied: whether the output layer is the embedding.
    """

    family: Family
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @staticmethod
    def from_config(config: Mapping[str, Any], where: str = "config.json") -> Model:
        """Make a model from the content of a config.json; `where` names it in errors.

        Raises:
            InputError: an architecture without a table, a key that its family does not know or
                has at another value, a missing or impossible number.
        """
        architectures = config.get("architectures") or ["(none)"]
        if not isinstance(architectures, list):
            raise InputError(
                f"{where}: architectures is {shown(architectures)}; expected a list of one name"
            )
        name = str(architectures[0])
        family = FAMILIES.get(name)
        if family is None:
            raise InputError(
                f"{where}: architecture {named(name)} is not supported; "
                f"supported are {', '.join(sorted(FAMILIES))}"
            )
        if problems := [*config_problems(family, config), *value_problems(config)]:
            raise InputError(f"{where}: {'; '.join(problems)}")

        def number(key: str, default: int | None = None) -> int:
            value = config.get(key)
            value = default if value is None else value
            if not is_whole(value, 1, LARGEST[key]):
                raise InputError(
                    f"{where}: {key} is {shown(value)}; expected a positive integer, "
                    f"{LARGEST[key]} at the most"
                )
            return value

        heads, hidden = number("num_attention_heads"), number("hidden_size")
        if config.get("head_dim", family.default("head_dim")) is None and hidden % heads:
            raise InputError(
                f"{where}: hidden_size={hidden} is not a multiple of num_attention_heads={heads}, "
                f"and there is no head_dim"
            )
        # Given as null, it is as many as there are heads; left out, the family may have its own.
        groups = "num_key_value_heads"
        kv_heads = number(groups, heads if groups in config else family.default(groups, heads))
        if heads % kv_heads:
            raise InputError(
                f"{where}: num_attention_heads={heads} is not a multiple of "
                f"num_key_value_heads={kv_heads}"
            )
        return Model(
            family,
            layers=number("num_hidden_layers"),
            hidden=hidden,
            ffn=number("intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=number("head_dim", family.default("head_dim", hidden // heads)),
            vocab=number("vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    def shape(self, symbols: tuple[str, ...]) -> Shape:
        """Return the numbers for the symbols of `families.HfTensor.shape`."""
        numbers = {
            "hidden": self.hidden,
            "ffn": self.ffn,
            "vocab": self.vocab,
            "head": self.head_dim,
            "query": self.heads * self.head_dim,
            "key_value": self.kv_heads * self.head_dim,
        }
        return tuple(numbers[symbol] for symbol in symbols)

    def rows(self) -> Iterator[tuple[TableRow, int | None]]:
        """Yield every parameter with its layer's number, from the embedding to the head."""
        yield self.family.embedding, None
        for layer in range(self.layers):
            for row in self.family.layer:
                yield row, layer
        yield self.family.final_norm, None
        if not self.tied:
            yield self.family.head, None

    def parts(self, row: TableRow, layer: int | None) -> list[tuple[str, Shape]]:
        """Return the full names and shapes of the Hugging Face tensors of a row."""
        prefix = "" if layer is None else f"model.layers.{layer}."
        return [(prefix + part.name, self.shape(part.shape)) for part in row.parts]

    def tensors(self) -> dict[str, Shape]:
        """Return the shape of every Hugging Face tensor by name, in the model's order."""
        return {name: shape for row in self.rows() for name, shape in self.parts(*row)}


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json, given the file or its folder.

    Raises:
        InputError: there is no such file, it is not a JSON object, or a link that leads out of
            its folder.
    """
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise InputError(f"{path} is missing; expected the config.json of a Hugging Face model")
    check_stays_in(path, path.parent)
    config = read_json_object(path)
    for key in rope.SPELLINGS:
        if not isinstance(config.get(key), dict | None):
            raise InputError(
                f"{path}: {key} is {shown(config[key])}; expected a JSON object or null"
            )
    return config


_NOT_THE_MODEL = GENERATION_KEYS | HARMLESS_KEYS | {"attention_dropout"}

_DEFAULTS = {
    # What transformers takes for a field that config.json leaves out, if the family says no other.
    "attention_bias": False,
    "hidden_act": "silu",
    "mlp_bias": False,
    "rms_norm_eps": 1e-6,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}


def config_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """List the fields that mean another model, as "field: in `first`, in `second`".

    A field that only one side has counts where its absence stands for another value. Rotations are
    compared by what they mean, however they are spelled.
    """
    a, b = _normalised(first), _normalised(second)
    lines = [
        f"{named(key)}: {shown(a[key])} against {shown(b[key])}"
        for key in sorted(a.keys() & b.keys())
        if a[key] != b[key]
    ]
    return lines + rope.rope_differences(first, second)


def _normalised(config: Mapping[str, Any]) -> dict[str, Any]:
    names = config.get("architectures")
    family = FAMILIES.get(str(names[0])) if isinstance(names, list) and names else None
    known = {key: family.default(key) for key, _ in family.fixed} if family else {}
    given = {k: v for k, v in config.items() if v is not None and k not in _NOT_THE_MODEL}
    fields = {**_DEFAULTS, **known, **given}
    # `Model.from_config` accepts them only where they change nothing.
    for key in (*(family.inert if family else ()), "layer_types", *rope.CONFIG_KEYS):
        fields.pop(key, None)
    return fields
