"""A training job on one rank: from the job's JSON and the tables' files to trained files."""
