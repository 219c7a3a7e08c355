"""Checks whether a deployment can rely on server, key, app, routers, events and verification. Changes nothing."""
