"""Plain scripts for `megaprune convert`; installed as `megaprune.converters`."""
