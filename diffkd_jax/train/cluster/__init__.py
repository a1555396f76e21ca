"""Devices and processes: mesh, memory, signals, and how processes end together."""
