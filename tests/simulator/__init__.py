"""A simulator of the platform, whose random histories drive the real server. `python -m tests.simulator --help`."""
