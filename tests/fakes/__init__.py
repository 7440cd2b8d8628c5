"""Test doubles of engines, faithful to recorded exchanges of the real ones."""
