"""A sample Durable Functions app. In Azure this folder is the root of the package; here it is a package of its own."""
