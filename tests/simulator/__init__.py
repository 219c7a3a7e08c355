"""A simulator of the platform. Its random histories drive the real server. See `python -m tests.simulator --help`."""
