"""Version 2 of the orchestrator: its first activity screens the order for fraud.

It cannot continue an order of version 1, whose history begins with another activity."""

from .process_order import blueprint

__all__ = ["blueprint"]
