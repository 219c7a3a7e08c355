"""The set-up of an app's repository for guarded deployments, as `safe-deploy init` makes it."""
