"""`python -m safe_deploy` runs the same program as `safe-deploy`."""

from safe_deploy.cli import main

main()
