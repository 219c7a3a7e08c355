"""Releases side by side as a pipeline handles them: deploy, promote, roll back, retire."""
