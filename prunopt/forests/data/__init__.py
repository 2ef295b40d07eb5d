"""Data sets with feature costs; README.md has their sources and licenses."""
