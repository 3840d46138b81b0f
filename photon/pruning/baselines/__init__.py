"""Pruners to compare with, on the same model and the same interface."""
