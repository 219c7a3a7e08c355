"""Checks whether a deployment can rely on server, key, app, routers, events and verification.

Repairs what it safely can, if a person agrees."""
