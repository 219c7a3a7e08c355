"""Tests of the project's Function App on Microsoft's Functions host, in the form in which it is deployed."""
