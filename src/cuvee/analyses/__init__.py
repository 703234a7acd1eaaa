"""Analyses: pure functions from results to tables and figures. One file an analysis."""
