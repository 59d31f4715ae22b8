"""Reading videos and pictures."""
