"""Studies: one model trained in many ways, several times each, and measured alike."""
