"""The project's Function App on Microsoft's Functions host, as it would be deployed."""
