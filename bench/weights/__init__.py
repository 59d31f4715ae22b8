"""Weights: reading checkpoint files, and the files that are shipped or published."""
