"""The demo of releases side by side with real processes: three releases, Envoy in front, customers under way."""
