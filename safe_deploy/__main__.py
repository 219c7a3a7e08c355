"""`python -m safe_deploy`: the same as `safe-deploy`."""

from safe_deploy.cli import main

main()
