"""One command a table; peers measured in the same run. Raw figures: benchmarks/results/, tables: RESULTS.md."""
