"""Tests of the sample app that run on every Python of the Functions host."""

import importlib.util

# Microsoft's runtime library exists for Python 3.13 and newer; dev/test-functions installs it.
collect_ignore = [] if importlib.util.find_spec("azure_functions_runtime") else ["test_runtime.py"]
