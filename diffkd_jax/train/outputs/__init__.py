"""The output of a run for people: metrics, plots, report, predictions."""
