"""Classifiers of other libraries, named as ``PREFIX:NAME``: each module here is one prefix, and has a ``factory``."""
