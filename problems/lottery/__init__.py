"""Lottery tickets."""
