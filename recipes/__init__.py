"""Runs and models by name; installed as `megaprune.recipes`."""
