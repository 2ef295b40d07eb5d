"""Objectives that can only be evaluated."""
