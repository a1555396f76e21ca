"""What a run shows and writes for people: metrics, plots, report, predictions."""
