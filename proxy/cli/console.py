"""Where tables are printed: as wide as the terminal is, and wide enough where there is none."""

from rich.console import Console

_PLAIN_WIDTH = 140


def console() -> Console:
    """Standard output; a file or a pipe has no width of its own."""
    found = Console()
    return found if found.is_terminal else Console(width=_PLAIN_WIDTH)
