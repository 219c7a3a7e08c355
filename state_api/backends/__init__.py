"""Ground truth: one module per durable backend, each behind the Protocol of `backend.py`."""
