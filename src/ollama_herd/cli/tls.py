"""`herd tls init`: a certificate authority for this herd alone, and a certificate of it."""

import datetime as dt
import ipaddress
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_herd.cli.keys import HomeOption
from ollama_herd.cli.lazy import Commands
from ollama_herd.cli.options import load_or_fail
from ollama_herd.cli.process import fail
from ollama_herd.clock import now_s
from ollama_herd.config import RouterSettings

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

app = Commands(help="TLS: certificates for the router.", no_args_is_help=True)

CA_DAYS = 3650
CERTIFICATE_DAYS = 397
"""Browsers take no longer-lived certificate of a public CA; private ones may as well keep to it."""


@app.callback()
def tls() -> None:
    """TLS: certificates for the router."""


@app.command()
def init(
    name: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="further names or addresses of the router"),
    ] = None,
    *,
    home: HomeOption = None,
) -> None:
    """Make a certificate for this router, of a CA that is made with the first one.

    Run it again to renew the certificate; the CA stays, and a running router takes the new one.
    """
    settings = load_or_fail(RouterSettings, {"home": home}).settings
    folder = settings.home / "tls"
    names = list(dict.fromkeys([*_own_names(), *settings.allowed_hosts, *(name or ())]))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(folder, [one for one in names if one != "*" and not one.startswith(".")])
    except OSError as error:
        fail(f"{error.filename or folder} cannot be used: {error.strerror}")
    except ValueError as error:
        fail(f"the CA in {folder} cannot be used: {error}; move it away to make another")
    typer.echo(
        f"herd --tls-cert {folder / 'router.pem'} --tls-key {folder / 'router.key'}\n"
        f"herd-node --router https://{_shown(names)}:{settings.port} --router-ca ca.pem"
    )
    typer.echo(
        f"Good for {CERTIFICATE_DAYS} days, for {', '.join(names)}. Copy {folder / 'ca.pem'} to "
        "the nodes, and let clients and browsers trust it; ca.key stays here.",
        err=True,
    )


def _make(folder: Path, names: list[str]) -> None:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
    except ImportError:
        fail(
            "certificates need the extra 'tls', which is not installed: run uv tool install "
            "'.[tls]' or pip install '.[tls]' in the checkout"
        )
    pem = serialization.Encoding.PEM
    ca, ca_key = _authority(folder)
    certificate, key = _certificate(names, ca, ca_key)
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(folder / "router.key", private, 0o600)
    _write(folder / "router.pem", certificate.public_bytes(pem) + ca.public_bytes(pem), 0o644)


def _authority(folder: Path) -> tuple["x509.Certificate", "EllipticCurvePrivateKey"]:
    """The CA in the folder, made when there is none. Never overwritten."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    cert_file, key_file = folder / "ca.pem", folder / "ca.key"
    if cert_file.exists() or key_file.exists():
        found = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is of another kind")
        return x509.load_pem_x509_certificate(cert_file.read_bytes()), found
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"Ollama Herd CA of {socket.gethostname()}"[:64]
    certificate = (
        _builder(name, key, CA_DAYS)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(key_file, private, 0o600)
    _write(cert_file, certificate.public_bytes(pem), 0o644)
    return certificate, key


def _certificate(
    names: list[str], ca: "x509.Certificate", ca_key: "EllipticCurvePrivateKey"
) -> tuple["x509.Certificate", "EllipticCurvePrivateKey"]:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        _builder(names[0][:64], key, CERTIFICATE_DAYS)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_ca=False), critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate, key


def _builder(name: str, key: "EllipticCurvePrivateKey", days: int) -> "x509.CertificateBuilder":
    from cryptography import x509  # noqa: PLC0415

    now = dt.datetime.fromtimestamp(now_s(), dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # clocks differ
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, is_ca: bool) -> "x509.KeyUsage":
    from cryptography import x509  # noqa: PLC0415

    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> "x509.GeneralName":
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _own_names() -> list[str]:
    """What this machine is called, and its addresses."""
    from ollama_herd.discovery.networks import own_interfaces  # noqa: PLC0415 - loads zeroconf

    host = socket.gethostname().lower()
    short = host.partition(".")[0]
    addresses = [str(one.ip) for one in own_interfaces()]
    return [host, short, f"{short}.local", "localhost", *addresses, "127.0.0.1", "::1"]


def _shown(names: list[str]) -> str:
    """The address that a node will most likely reach."""
    for name in names:
        try:
            if not ipaddress.ip_address(name).is_loopback:
                return name
        except ValueError:
            continue
    return names[0]


def _write(path: Path, content: bytes, mode: int) -> None:
    """All of the file or nothing, with its mode from the first byte on."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        file.write(content)
    temporary.replace(path)
