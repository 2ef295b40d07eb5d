"""Depthwise layers in tiles."""
