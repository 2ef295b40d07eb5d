"""Subsets under any loss."""
