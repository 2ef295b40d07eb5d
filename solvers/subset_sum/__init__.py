"""Subset sums."""
