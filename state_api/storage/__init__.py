"""The state on Azure Tables: the only place that imports azure.data.tables."""
