"""Figures as the papers print them, one CSV per table; installed as ``bench.reported`` so that grids find them."""
