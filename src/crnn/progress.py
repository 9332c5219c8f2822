"""A progress bar on stderr for work that is counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["counting_bar"]


@contextmanager
def counting_bar(title: str, total: int | None = None, *, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr for work that is counted, where stderr is a terminal.

    Args:
        title: What is done.
        total: How much there is to do, where it is known.
        enabled: ``False`` on ranks that keep quiet.

    Yields:
        A function to call with what was done since the last call.
    """
    console = Console(file=sys.stderr)
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeRemainingColumn())
    disable = not (enabled and console.is_terminal)
    # What is printed to stdout meanwhile is a result and belongs there, not on the console of the bar.
    with Progress(*columns, console=console, transient=True, disable=disable, redirect_stdout=False) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
