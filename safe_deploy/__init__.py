"""The pipeline side: waits for the server's verdict, stages, swaps and cleans up, from the command line."""
