"""Evaluators: what a model is asked and how its answers are graded. One file an evaluator."""
