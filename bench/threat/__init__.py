"""Threat models: what may be done to a clip, and how far."""
