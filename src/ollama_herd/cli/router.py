"""`herd` without a subcommand: run the router until a signal comes."""

from collections.abc import Mapping
from functools import partial

from ollama_herd.cli import process
from ollama_herd.cli.options import load_or_fail
from ollama_herd.config import RouterSettings, load

_AFTER_DRAIN_S = 0.9
"""For what follows the drain: closing connections, writing the last traces, the goodbye."""


def start(flags: Mapping[str, object]) -> None:
    """Returns after a clean shutdown; ends the process with one line when it cannot start."""
    settings, origins = load_or_fail(RouterSettings, flags)
    again = partial(load, RouterSettings, flags)
    process.start_logging(settings)
    with process.held_home(settings.home, "herd.lock"):
        from ollama_herd.router.app import run  # noqa: PLC0415 - slow to load
        from ollama_herd.router.telemetry import TelemetryUnavailable  # noqa: PLC0415
        from ollama_herd.router.tls import CertificateUnusable  # noqa: PLC0415

        try:
            process.run(
                lambda: run(settings, origins, again), shutdown_s=settings.drain_s + _AFTER_DRAIN_S
            )
        except (TelemetryUnavailable, CertificateUnusable) as error:
            process.fail(str(error))
        except OSError as error:
            process.fail(process.explain_listening(error, settings.host, settings.port))
