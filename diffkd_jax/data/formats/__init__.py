"""Readers of single files of annotations, names and arrays."""
