"""Whole pipelines, and the stand-in for the Azure CLI that they run against."""
