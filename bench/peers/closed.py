"""A place without a way out: a network namespace of its own, with loopback and nothing else.

Everything the bench starts inherits it, so that nothing of a router's can leave the machine,
whatever it would like to reach.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys

_SET_FLAGS = 0x8914  # SIOCSIFFLAGS of linux/sockios.h
_UP_AND_RUNNING = 0x41  # IFF_UP | IFF_RUNNING of linux/if.h
_ELSEWHERE = ("192.0.2.1", 443)  # an address of RFC 5737: nobody's


def prefix() -> list[str] | None:
    """The command that runs another one in a namespace of its own; None where that fails."""
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        return None
    command = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--net", "--map-root-user"]
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if tried.returncode == 0 else None


def raise_loopback() -> None:
    """A new namespace has loopback, but down; nothing is done where it is up."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", 0))
        probe.listen()
        socket.create_connection(probe.getsockname(), 1).close()
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh22x", b"lo", _UP_AND_RUNNING))


def is_closed() -> bool:
    """Whether the kernel has no route to anywhere but here."""
    with socket.socket() as probe:
        probe.settimeout(0)
        return probe.connect_ex(_ELSEWHERE) in (errno.ENETUNREACH, errno.EHOSTUNREACH)
