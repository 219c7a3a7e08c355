"""A development host for the sample app: its unchanged functions on Microsoft's `durabletask` worker and engine.

It is not for production. In Azure the Functions host runs the same app."""
