"""Objectives of training, one file per kind of network."""
