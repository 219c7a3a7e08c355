"""Real parts as processes and servers on this machine, which tests, benchmarks and the demo share."""
