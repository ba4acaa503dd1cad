"""Faults put into the actor or into Transformer Engine, one after another: a JSON line for each.

    te_faults.py FOLDER      on one rank that te_server.py forks; FOLDER has a Hugging Face model

A line says what the fault raised, or by how much log-probs then differ from those of local layers.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformer_engine.pytorch as te
from actors import build_actor
from megatron.core.transformer.enums import AttnMaskType
from te_worker import samples

import te_standin
from megaprune.actor import actor as actor_module
from megaprune.actor import build
from megaprune.distributed import world

Patch = pytest.MonkeyPatch


def another_format(patch: Patch) -> None:
    real = actor_module.stream_of
    patch.setattr(actor_module, "stream_of", lambda packed, _: real(packed, "bshd"))


def a_longest_sequence_too_short(patch: Patch) -> None:
    real = actor_module.stream_of

    def stream_of(packed, qkv_format):
        stream = real(packed, qkv_format)
        stream.max_seqlen_q -= 1
        return stream

    patch.setattr(actor_module, "stream_of", stream_of)


def another_mask(patch: Patch) -> None:
    real = build._block_spec

    def block_spec(*arguments):
        spec = real(*arguments)
        spec.submodules.self_attention.params["attn_mask_type"] = AttnMaskType.no_mask
        return spec

    patch.setattr(build, "_block_spec", block_spec)


def names_of_local_layers(patch: Patch) -> None:
    patch.setattr(build, "norms", lambda: "local")


def a_name_that_the_package_has_no_more(patch: Patch) -> None:
    patch.delattr(te, "RMSNorm")


def a_renamed_argument(patch: Patch) -> None:
    """The package's `forward` has `seqlens_q` where it had `cu_seqlens_q`."""
    real = te.DotProductAttention.forward
    parameters = [
        p.replace(name="seqlens_q") if p.name == "cu_seqlens_q" else p
        for p in inspect.signature(real).parameters.values()
    ]
    signature = inspect.Signature(parameters)

    def forward(*arguments, **options):
        bound = signature.bind(*arguments, **options)
        return real(*bound.args, **bound.kwargs)

    patch.setattr(te.DotProductAttention, "forward", forward)


def frequencies_of_megatron(patch: Patch) -> None:
    """Those that a base of 10,000 gives, whatever the model has."""
    real = build.inverse_frequencies
    patch.setattr(
        build,
        "inverse_frequencies",
        lambda _, size: real({"rope_type": "default", "rope_theta": 1e4}, size),
    )


def no_scale_of_its_own(patch: Patch) -> None:
    """The factor of YaRN is not passed on."""
    patch.setattr(build, "attention_factor", lambda _: 1.0)


FAULTS: list[Callable[[Patch], None]] = [
    another_format,
    a_longest_sequence_too_short,
    another_mask,
    names_of_local_layers,
    a_name_that_the_package_has_no_more,
    a_renamed_argument,
    frequencies_of_megatron,
    no_scale_of_its_own,
]


def job() -> None:
    folder = Path(sys.argv[1])
    with te_standin.local_layers():
        expected = np.concatenate(build_actor(folder, max_tokens=40).log_probs(samples()))
    for fault in [lambda _: None, *FAULTS]:
        line: dict[str, object] = {"fault": fault.__name__}
        with pytest.MonkeyPatch.context() as patch:
            fault(patch)
            try:
                seen = np.concatenate(build_actor(folder, max_tokens=40).log_probs(samples()))
                line["difference"] = float(np.abs(seen - expected).max())
            except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
                line["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(world.run(job))
