"""Classifiers, one file per family. Each factory is registered with ``kind="model"``."""
