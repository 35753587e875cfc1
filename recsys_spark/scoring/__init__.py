"""Exact top-k, candidates with pair features, the ranker over them, and the Spark jobs around these."""
