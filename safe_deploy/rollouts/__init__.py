"""Gradual rollouts: what the command line sends to the server, and what it shows of them."""
