"""Optical flow estimators for clips, and the shipped tiny one."""
