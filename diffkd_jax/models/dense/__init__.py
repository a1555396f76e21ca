"""Networks for segmentation and detection on top of a backbone."""
