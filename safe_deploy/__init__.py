"""The CLI `safe-deploy`: waits for the server's verdict, stages, swaps, rolls back and cleans up."""
