"""Benchmarks of a config on this machine: `python -m vgsgan.tools.bench MODE`.

What is compared takes turns in one process, after a turn to warm up, and the
figures are medians, so that ratios hold on a machine whose speed drifts.
Seconds of two runs of this command are not to be compared.
"""
