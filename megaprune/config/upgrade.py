"""The config.yaml of a run that was begun under other names of fields, written anew."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf

from megaprune.config.fields import describe
from megaprune.config.read import dotted, from_yaml, to_yaml, yaml_mapping
from megaprune.config.renamed import new_name
from megaprune.errors import InputError


def upgraded(text: str, kinds: Sequence[type]) -> tuple[str, list[str]]:
    """The text of a config.yaml with all fields by the names that they have, and what was changed.

    Args:
        kinds: classes of configurations; it is of the first that has all its fields.

    Raises:
        InputError: it is no YAML, or of none of them.
    """
    content = yaml_mapping(text)
    reasons = []
    for kind in kinds:
        known = [doc.name for doc in describe(kind)]
        renamed = OmegaConf.create({})
        changes = []
        for key, value in dotted(content):
            name = new_name(key, known)
            if name is not None:
                changes.append(f"{key} is {name}")
            if key == "algorithm.refills":  # the number said whether there was a filter
                OmegaConf.update(renamed, "algorithm.filter.name", "no_signal" if value else "none")
                if not value:
                    continue
            OmegaConf.update(renamed, name or key, value)
        try:
            return to_yaml(from_yaml(kind, OmegaConf.to_yaml(renamed))), changes
        except InputError as error:
            reasons.append(str(error))
    raise InputError(reasons[0])
