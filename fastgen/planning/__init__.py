"""What a run will need, from its config alone: networks without storage are trained for one update and counted."""
