"""What works on this repository and is not shipped."""
