"""One command a table; peers measured in the same run. Raw figures land in benchmarks/results/, tables in RESULTS.md."""
