"""Does a row of a table deserve belief? Checks of stored outcomes, and of a few clips asked again."""
