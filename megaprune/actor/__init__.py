"""The model that is trained: real Megatron-core, packed sequences, log-probs without logits."""
