"""The instances that this worker has read or written lately, with the ETags of their rows."""

from collections import OrderedDict

from state_api.storage.transaction_plan import StoredInstance

MAX_CACHED_ROWS = 20_000
"""Cached instances, about 1 kB each: several times the instances that are active at once in a busy task hub."""
_MAX_CACHED_REASON_CHARACTERS = 500
"""An instance with a longer reason is not cached, because such reasons would fill most of the memory."""


class InstanceCache:
    """Holds the MAX_CACHED_ROWS instances that were read or written last. Only instances with a row are cached."""

    def __init__(self) -> None:
        # By table and instance id, the least recently cached first.
        self._stored: OrderedDict[tuple[str, str], StoredInstance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def get(self, table: str, instance_id: str) -> StoredInstance | None:
        return self._stored.get((table, instance_id))

    def put(self, table: str, instance_id: str, stored: StoredInstance) -> None:
        """Cache an instance in place of what was cached of it."""
        self.remove(table, instance_id)
        finished = stored.instance.finished if stored.instance is not None else None
        if stored.instance is None or (finished is not None and len(finished.reason) > _MAX_CACHED_REASON_CHARACTERS):
            return
        if len(self._stored) >= MAX_CACHED_ROWS:
            self._stored.popitem(last=False)
        self._stored[(table, instance_id)] = stored

    def remove(self, table: str, instance_id: str) -> None:
        self._stored.pop((table, instance_id), None)

    def remove_table(self, table: str) -> None:
        """Forget all rows of a table that was deleted."""
        self._stored = OrderedDict((key, stored) for key, stored in self._stored.items() if key[0] != table)
