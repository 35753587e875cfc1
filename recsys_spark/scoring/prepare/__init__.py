"""Stage ``sources``: what the sources of candidates read beside the retrieval model."""
