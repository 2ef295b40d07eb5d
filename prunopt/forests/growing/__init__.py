"""Forests grown for a feature budget."""
