"""Tables, the leaderboard and published figures: views over records."""
