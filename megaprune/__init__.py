"""megaprune: make long-reasoning language models think less and answer as well."""

__version__ = "0.1.0"
