"""Other systems, started for real on this machine, so that a benchmark compares with them in the same run."""
