"""Devices and processes of a run: their start, mesh, signals, faults and end."""
