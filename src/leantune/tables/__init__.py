"""A file of rows becomes a `Table`, its `Targets` and its `Folds`."""
