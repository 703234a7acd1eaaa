"""Selectors: how much each row of a pool is worth. One file a selector."""
