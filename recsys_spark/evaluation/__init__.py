"""Honest figures: metrics, baselines in the same table, on the same users and weeks."""
