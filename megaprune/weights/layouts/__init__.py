"""Three layouts of one model: Hugging Face (the logical one), Megatron-core and vLLM."""

from megaprune.weights.layouts.base import Layout, Parameter, Piece
from megaprune.weights.layouts.hf import hf_layout
from megaprune.weights.layouts.megatron import (
    Pipeline,
    Spelling,
    checkpoint_layout,
    extra_states,
    megatron_layout,
)
from megaprune.weights.layouts.vllm import vllm_layout

__all__ = [
    "Layout",
    "Parameter",
    "Piece",
    "Pipeline",
    "Spelling",
    "checkpoint_layout",
    "extra_states",
    "hf_layout",
    "megatron_layout",
    "vllm_layout",
]
