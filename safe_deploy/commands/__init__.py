"""The commands of `safe-deploy`, one module a group. Each module exports the Typer app of its group."""
