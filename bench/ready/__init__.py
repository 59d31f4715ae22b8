"""Whether a machine is ready for grids of the published size: what it lacks, fetching that, rehearsing a run."""
