"""A development host for the sample app: its functions, unchanged, on Microsoft's `durabletask` worker and in-memory
engine. Not for production: in Azure the Functions host runs the same app."""
