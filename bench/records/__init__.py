"""What is kept of a measurement, readable without PyTorch: outcomes, result files, audits, and what they come to."""
