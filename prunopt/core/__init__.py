"""The shared language: problems, solutions, solvers, budgets and certificates."""
