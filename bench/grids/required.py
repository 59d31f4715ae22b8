"""The grids that a submission has to run. ``bench submit --dry-run`` says what they cost with a defence."""

REQUIRED = ("demo", "embedded_nl")
