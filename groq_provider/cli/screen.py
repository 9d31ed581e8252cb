"""Prints the output of the commands: text, JSON, tables, a progress line."""

from __future__ import annotations

import enum
import json
import sys
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider import ConfigurationError
from groq_provider.cli.text import one_line, visible_text, wrap_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Progress", "Screen", "as_data", "print_json", "print_note", "print_text"]


def print_text(text: str) -> None:
    """Print lines on standard output and flush; on a terminal wrap at words and remove control characters."""
    if sys.stdout.isatty():
        text = wrap_text(visible_text(text))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_note(text: str) -> None:
    """Print a note for the user on standard error."""
    try:
        text = visible_text(text)
        sys.stderr.write((wrap_text(text) if sys.stderr.isatty() else text) + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # standard error is closed, too


def print_json(data: Any, *, indent: int | None = None) -> None:
    """Print as JSON in printable ASCII: it reads the same in every encoding and holds no control characters."""
    sys.stdout.write(json.dumps(data, indent=indent).replace("\x7f", "\\u007f") + "\n")
    sys.stdout.flush()


def as_data(value: Any) -> dict[str, Any]:
    """Return one of the library's values as plain data, without exceptions, raw bodies and unknown fields."""
    return attrs.asdict(
        value,
        filter=lambda field, _value: field.name not in ("error", "raw", "extra"),
        value_serializer=lambda _instance, _field, item: _plain_value(item),
    )


def _plain_value(item: Any) -> Any:
    if isinstance(item, date):
        return item.isoformat()
    return item.value if isinstance(item, enum.Enum) else item


class Progress:
    """The counts of a batch: items, tokens, errors."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.errors = 0
        self.tokens = 0

    def text(self, elapsed: float) -> str:
        """Return the counts as one line, *elapsed* seconds after the start."""
        speed = self.tokens / elapsed if elapsed > 0 else 0.0
        errors = "1 error" if self.errors == 1 else f"{self.errors} errors"
        return f"{self.done} of {self.total} done, {speed:,.0f} tokens/s, {errors}"


class Screen:
    """Prints tables and progress with rich; on anything but a terminal as plain text.

    Raises:
        ConfigurationError: rich is not installed.
    """

    def __init__(self, *, color: bool = True) -> None:
        try:
            from rich.console import Console
        except ImportError:
            raise ConfigurationError('this command needs the package rich: pip install "groq-provider[cli]"') from None
        # Without a terminal no width limits the lines.
        width = None if sys.stdout.isatty() else 200
        self._console = Console(no_color=True if not color else None, width=width, highlight=False)

    def heading(self, text: str) -> None:
        """Begin a section."""
        from rich.text import Text

        self._print(Text(f"\n{text}", style="bold"))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, keys: int = 1) -> None:
        """Print a table, or one paragraph per row if the table is wider than the terminal.

        Args:
            columns: Names of the columns. The first one, and each with a space at the end of its name, holds text; the others hold numbers.
            rows: The cells; their text need not be safe for a terminal.
            keys: Number of leading cells that identify a row; they head its paragraph.
        """
        cells = [[one_line(cell) for cell in row] for row in rows]
        unbounded = self._console.options.update(width=10_000)
        for padding in (1, 0):
            table = self._table(columns, cells, padding)
            if self._console.measure(table, options=unbounded).maximum <= self._console.width:
                self._print(table)
                break
        else:
            for row in cells:
                print_text("  ".join(row[:keys]))
                named_cells = zip(columns[keys:], row[keys:], strict=True)
                print_text("  " + ", ".join(f"{name.strip()} {cell}" for name, cell in named_cells if cell))
        print_text("")

    @staticmethod
    def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], padding: int) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, padding))
        for position, name in enumerate(columns):
            is_text = position == 0 or name.endswith(" ")
            table.add_column(name.strip(), justify="left" if is_text else "right", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))  # rich would read a plain string as markup
        return table

    def _print(self, renderable: Any) -> None:
        # Write it here, not through rich: a closed pipe then raises BrokenPipeError as for all other output.
        with self._console.capture() as capture:
            self._console.print(renderable, markup=False)
        lines = [line.rstrip() for line in capture.get().splitlines()]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    @contextmanager
    def progress(self, counts: Progress, note: Callable[[], str]) -> Iterator[Callable[[], None]]:
        """Show *counts* and a *note* on a terminal during the ``with`` block; call the yielded function after each change."""
        if not self._console.is_terminal:
            yield lambda: None
            return
        import rich.progress as rich_progress
        from rich.text import Text

        class Counts(rich_progress.ProgressColumn):
            max_refresh = None

            def render(self, task: rich_progress.Task) -> Text:
                return Text(", ".join(filter(None, (counts.text(task.elapsed or 0.0), note()))))

        spinner = "line" if self._console.options.ascii_only else "dots"
        bar = [rich_progress.BarColumn(bar_width=30)] if self._console.width >= 80 else []
        columns = (rich_progress.SpinnerColumn(spinner), *bar, Counts())
        with rich_progress.Progress(*columns, console=self._console, transient=True) as live:
            task = live.add_task("", total=counts.total)
            yield lambda: live.update(task, completed=counts.done)
