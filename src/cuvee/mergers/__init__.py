"""Mergers: the same tensor of several models to one. One file a method."""
