"""Gradual rollouts: whether a candidate is healthy, and what becomes of its share of the work."""
