"""Runs as typed fields: declared once, read from recipes and key=value, checked."""
