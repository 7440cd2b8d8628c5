"""`herd demo`: a herd on this machine that answers a real prompt."""


def demo() -> None:
    """Show a herd at work on this machine."""
