"""Strategies: pure functions from sources and parameters to a graph of stages. One file a strategy."""
