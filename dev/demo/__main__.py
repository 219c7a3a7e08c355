"""Runs the demo: `python -m dev.demo`."""

import sys

from harness.interruption import note_interruptions

if __name__ == "__main__":
    note_interruptions()
    # Imported only now, because these imports take a second, in which Ctrl-C may come.
    from dev.demo.command_line import main

    sys.exit(main())
