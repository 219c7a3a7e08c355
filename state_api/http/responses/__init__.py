"""The JSON bodies of responses, and the conversion of domain values to them."""
