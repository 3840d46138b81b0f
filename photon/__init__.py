"""Photon: 3D medical visual question answering with instruction-conditioned token pruning."""
