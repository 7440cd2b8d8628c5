"""The router's certificate: loaded before it listens, and again when its files change."""

import asyncio
import ssl
from pathlib import Path

import structlog

LOOK_S = 2.0
"""How often the files are looked at; renewals come once in weeks."""

_log = structlog.get_logger(__name__)


class CertificateUnusable(Exception):  # noqa: N818 - the user's files, not a defect
    """The certificate or its key cannot be used; the message names them and the reason."""


class Certificate:
    """`context` is what to listen with; connections made after a change get the new one.

    It never changes itself: OpenSSL takes a certificate and its key one after the other, and a
    handshake between the two would fail. Each connection is given the newest context instead.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises CertificateUnusable."""
        self._files = (cert, key)
        self._seen = self._stamp()
        self.context = self._newest = self._loaded()
        self.context.sni_callback = self._give_newest

    async def watch(self) -> None:
        """Load the files again whenever they changed, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Load the files again if they changed; what cannot be used changes nothing."""
        now = self._stamp()
        if now == self._seen:
            return
        self._seen = now
        try:
            self._newest = self._loaded()
        except CertificateUnusable as error:
            _log.warning("the new certificate is not used, the old one stays", reason=str(error))
        else:
            _log.info("certificate loaded anew", file=str(self._files[0]))

    def _give_newest(
        self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Called in every handshake, whether or not the client names a host."""
        connection.context = self._newest

    def _loaded(self) -> ssl.SSLContext:
        cert, key = self._files
        context = _new_context()
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise CertificateUnusable(
                f"the certificate {cert} with the key {key} cannot be used: {reason}; "
                "'herd tls init' makes a pair"
            ) from None
        return context

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for file in self._files:
            try:
                stat = file.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    """A service cannot be asked for one, and OpenSSL would wait at the terminal."""
    raise ValueError("the key is protected by a password; store it without one, mode 0600")
