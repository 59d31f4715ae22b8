"""Recipes of ``bench train``."""
