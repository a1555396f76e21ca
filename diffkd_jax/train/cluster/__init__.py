"""Devices and processes: mesh, memory faults, signals, and how processes end."""
