"""Task hubs at their providers: one module a provider, each behind the `Backend` Protocol of `protocols.py`."""
