"""Pure decisions: no I/O, no clock, nothing of Azure. `now` is always an argument."""
