"""Clients that nobody here wrote, doing real tasks through the herd and beside it."""
