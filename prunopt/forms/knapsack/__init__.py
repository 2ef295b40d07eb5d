"""Multiple-choice knapsacks and their kin."""
