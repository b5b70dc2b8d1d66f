"""Faults, drilled: what a run survives, tried on a real one."""
