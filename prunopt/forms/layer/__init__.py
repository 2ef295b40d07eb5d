"""One linear layer, pruned and re-solved."""
