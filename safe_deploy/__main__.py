"""The entry point of `safe-deploy` and of `python -m safe_deploy`.

Loading the commands takes a moment. Ctrl-C ends the program as quietly then as it does later.
"""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Load the command line, and run it."""
    try:
        from safe_deploy.cli import main as run_command_line  # noqa: PLC0415  # inside of `try`, because it takes a moment

        run_command_line()
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
