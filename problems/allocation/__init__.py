"""Sparsity shared out over layers."""
