"""The guide docs/first-hour.md, played on the real Functions host and the real Durable Functions extension."""
