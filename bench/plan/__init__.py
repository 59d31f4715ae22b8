"""From a grid to the smallest set of work."""
