"""Version 2: an order is screened for fraud before it is priced. An order that began on version 1 cannot go on here:
its history begins with another activity."""

from .process_order import blueprint

__all__ = ["blueprint"]
