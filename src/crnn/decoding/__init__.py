"""From log-probabilities to texts: paths, beams, lexicons, patterns, language models. Nothing here knows torch."""
