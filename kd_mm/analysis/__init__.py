"""Measures on the features of two networks: channels, similarity, fitted maps."""
