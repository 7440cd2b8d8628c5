"""A child process that ends when its parent does, however that ended, on every platform.

The parent holds the writing end of the child's stdin and never writes. The system closes it when
the parent is gone, and the child reads its end.
"""

import os
import signal
import sys
import threading
import time

_END_S = 6.0
"""A second more than our commands take to shut down."""


def hold() -> None:
    """End this process cleanly, then hard, once stdin ends."""
    threading.Thread(target=_wait_for_end, name="lifeline", daemon=True).start()


def _wait_for_end() -> None:
    descriptor = sys.__stdin__.fileno() if sys.__stdin__ else 0
    while os.read(descriptor, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_S)
    os._exit(1)
