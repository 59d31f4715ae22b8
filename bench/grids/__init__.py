"""Grids: how they are written and read, and those shipped with the package, one YAML file each."""
