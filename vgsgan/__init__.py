"""Visually grounded speech with generated hard negatives, in JAX."""

import os

# XLA's log is for its authors: what a user can mend it raises. JAX reads this
# when it is imported, and would have warnings and errors written.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
