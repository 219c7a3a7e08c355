"""Version 1 of the orchestrator: its first activity prices the order."""

from .process_order import blueprint

__all__ = ["blueprint"]
