"""Output that never damages what the user has: lines, JSON, files and drawings."""
