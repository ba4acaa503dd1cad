"""Iterative length pruning: rounds of runs under falling limits."""
