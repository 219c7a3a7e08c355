"""What the server needs outside Azure Functions, where no platform stands in front of it: limits on connections and on
its log."""
