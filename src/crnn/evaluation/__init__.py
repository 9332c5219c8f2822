"""What an evaluation counts, and how it is shown: protocols, results, calibration, reports."""
