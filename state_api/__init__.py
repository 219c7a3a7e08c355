"""The state server: records orchestration lifecycle events and decides whether a slot may be overwritten."""

__version__ = "0.1.0"
