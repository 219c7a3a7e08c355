"""Version 1: an order is priced first."""

from .process_order import blueprint

__all__ = ["blueprint"]
