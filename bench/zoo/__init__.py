"""Weights shipped with the package, and ``manifest.json``, which says what each file is."""
