"""Helpers that the package and the tools share."""
