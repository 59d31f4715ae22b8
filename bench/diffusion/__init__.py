"""Diffusion models as purification backbones: schedules, one interface, the shipped tiny ones."""
