"""The demo with real processes: an app with two slots, its orders, and deployments with and without the guard."""
