"""The model that is trained: real Megatron-core, packed sequences, log-probs without logits."""

from megaprune.actor import transformer_engine

transformer_engine.load()
