"""Findings of the papers, one file each: FINDING, SOURCE, NEEDS, and `outcomes`, a test on the user's own runs."""
