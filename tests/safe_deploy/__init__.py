"""The pipeline side, with real processes and a real server."""
