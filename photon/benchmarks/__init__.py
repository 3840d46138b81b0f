"""Readers of the published benchmarks, one file each; `registry` names them."""
