"""Tests of whole pipelines, and the fake Azure CLI that they run against."""
