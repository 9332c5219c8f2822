"""Evaluation: protocols, results, calibration, reports."""
