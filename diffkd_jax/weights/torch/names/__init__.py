"""Rename tables, one file for each kind of network."""
