"""Budget pruning of forests."""
