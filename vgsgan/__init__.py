"""Visually grounded speech with generated hard negatives, in JAX."""

__version__ = "0.1.0"
