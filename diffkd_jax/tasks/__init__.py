"""What the student is for: pure loss and metric functions."""
