"""How many files and connections this process may have open."""

import sys

WANTED = 16384
"""Two for each tunnel of the relay, and room."""

if sys.platform == "win32":

    def allow_many() -> None:
        """Windows has no such limit."""

else:
    import resource

    def allow_many() -> None:
        """Raise the soft limit towards WANTED, as far as the hard limit lets it.

        macOS starts programs with 256, enough for some 120 tunnels.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = resource.RLIM_INFINITY
        wanted = WANTED if hard == unlimited else min(WANTED, hard)
        if soft != unlimited and soft < wanted:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            except (ValueError, OSError):  # macOS: its own bound may be below the hard limit
                return
