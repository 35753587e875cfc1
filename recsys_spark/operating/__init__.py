"""What a person does to a root between the nights: look at its runs, go back to an earlier one, clear old ones away."""
