"""Protection of a server outside Azure Functions, where no platform stands in front of it: limits on connections and on
the log."""
