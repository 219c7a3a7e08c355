"""The order processing: what both versions share, and the two versions of its orchestrator, `v1` and `v2`."""

VERSION_SETTING = "ORDERS_VERSION"
DEFAULT_VERSION = "v2"
