"""A sample Durable Functions app. In Azure this folder is the root of the app; in this repository it is a package."""
