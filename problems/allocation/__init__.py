"""How much sparsity each layer gets."""
