"""What a person reads: the night's page, and one user's history and list in words."""
