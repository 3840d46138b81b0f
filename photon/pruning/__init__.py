"""Instruction-conditioned token scheduling, surrogate gradient propagation and the baselines."""
