"""The demo of a gradual rollout with real processes: a bad version is stopped, a good one gets through."""
