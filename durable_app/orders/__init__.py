"""Order processing: functions that both versions share, and the two versions of the orchestrator, `v1` and `v2`."""

VERSION_SETTING = "ORDERS_VERSION"
DEFAULT_VERSION = "v2"
