"""Fused kernels, each with a plain version."""
