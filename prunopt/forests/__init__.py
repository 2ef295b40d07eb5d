"""scikit-learn forests: datasets, pruning paths, estimators, prediction on demand."""
