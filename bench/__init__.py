"""How fast the server is, always as a ratio to something else that ran in between on the same machine."""
