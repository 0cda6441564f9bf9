"""What commands print: tables and lines in which text stands as it is."""

from rich.console import Console

_UNLIMITED = 10_000


def plain_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console for text that users or files provide.

    Rich would otherwise take `[red]` in a name for a color, fail at `[/x]`, and print `:100:` as an emoji. A caller
    that wants a color passes a `rich.text.Text`. Without a terminal, lines are as long as their content, so that tables
    hold whole values.

    Args:
        stderr: print to standard error.
        quiet: print nothing.
    """
    console = Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console
