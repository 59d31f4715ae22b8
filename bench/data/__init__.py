"""Clips: the base class of data sets, the embedded ones, reading videos and drawing clips."""
