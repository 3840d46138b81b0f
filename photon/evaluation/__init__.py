"""Scoring of answers: metrics, protocols, controls, intervals, files and reports.

Nothing here runs a model: the evaluation loop hands prediction rows in (predictions.py describes
them).
"""
