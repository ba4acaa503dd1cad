"""A tiny model whose checks find its slips: the more it thinks, the more often it is right."""
