"""Health: what is wrong in the herd, how bad it is, since when, and what to do about it. Pure."""
