"""The command `megaprune`: one file a command."""
