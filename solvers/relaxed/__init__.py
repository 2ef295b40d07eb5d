"""Choices learned through a differentiable relaxation."""
