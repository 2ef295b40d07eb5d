"""One command a table; peers measured in the same run. Raw figures: results/ (by results.py), tables: docs/results/."""
