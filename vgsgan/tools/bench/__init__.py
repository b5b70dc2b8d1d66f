"""Benchmarks of a config on this machine: `python -m vgsgan.tools.bench MODE`.

The compared programs run in turns in one process, after a turn to warm up. The
figures are medians, so that ratios hold on a machine whose speed drifts. Do not
compare seconds between two runs of this command.
"""
