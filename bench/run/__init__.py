"""Runs plans: the runner, its engine, the judge, and the store of outcomes."""
