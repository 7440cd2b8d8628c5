"""Ctrl-C while a command is still being loaded: it ends without a word, as it does later.

Python's own answer, an exception in the middle of an import, is a page of other people's code.
"""

import signal


def end_at_once() -> None:
    """Until `raise_again` the system ends this process; unless its parent had Ctrl-C ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, for commands that tidy up behind them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
