"""The state on Azure Tables: stores, rows and transactions. Only this package knows the tables of the state."""
