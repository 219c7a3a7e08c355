"""Routers in front of releases side by side: the routing document, its rules, and the configuration of each router."""
