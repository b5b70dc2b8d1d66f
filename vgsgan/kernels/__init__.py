"""The few fused kernels, each with its plain version beside it."""
