"""What the commands print: text, JSON, tables, a line of progress."""

from __future__ import annotations

import enum
import json
import sys
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider import ConfigurationError
from groq_provider.cli.text import one_line, visible, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Progress", "Screen", "as_data", "out", "out_json", "say"]


def out(text: str) -> None:
    """Print lines and hand over at once; on a terminal wrapped at words, and without control characters."""
    if sys.stdout.isatty():
        text = wrapped(visible(text))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Tell the user something that is not the output."""
    try:
        text = visible(text)
        sys.stderr.write((wrapped(text) if sys.stderr.isatty() else text) + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens there either


def out_json(data: Any, *, indent: int | None = None) -> None:
    """Print as JSON, escaped but for printable ASCII: it reads the same in every encoding, and steers no terminal."""
    sys.stdout.write(json.dumps(data, indent=indent).replace("\x7f", "\\u007f") + "\n")
    sys.stdout.flush()


def as_data(value: Any) -> dict[str, Any]:
    """Return one of the library's values as plain data; exceptions, raw bodies and unknown fields are left out."""
    return attrs.asdict(
        value,
        filter=lambda field, _value: field.name not in ("error", "raw", "extra"),
        value_serializer=lambda _instance, _field, item: _plain(item),
    )


def _plain(item: Any) -> Any:
    if isinstance(item, date):
        return item.isoformat()
    return item.value if isinstance(item, enum.Enum) else item


class Progress:
    """Counts a batch: items, tokens, errors."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.errors = 0
        self.tokens = 0

    def text(self, elapsed: float) -> str:
        """Return it as a line, for *elapsed* seconds since the start."""
        speed = self.tokens / elapsed if elapsed > 0 else 0.0
        errors = "1 error" if self.errors == 1 else f"{self.errors} errors"
        return f"{self.done} of {self.total} done, {speed:,.0f} tokens/s, {errors}"


class Screen:
    """Tables and progress by rich; on anything but a terminal plain text.

    Raises:
        ConfigurationError: rich is not installed.
    """

    def __init__(self, *, color: bool = True) -> None:
        try:
            from rich.console import Console
        except ImportError:
            raise ConfigurationError('this command needs the package rich: pip install "groq-provider[cli]"') from None
        # Without a terminal there is no width to keep to.
        width = None if sys.stdout.isatty() else 200
        self._console = Console(no_color=True if not color else None, width=width, highlight=False)

    def heading(self, text: str) -> None:
        """Begin a section."""
        from rich.text import Text

        self._show(Text(f"\n{text}", style="bold"))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, keys: int = 1) -> None:
        """Print a table, or where it is wider than the terminal a paragraph for each row.

        Args:
            columns: Names; the columns are numbers but for the first and those whose name ends in a space.
            rows: The cells. They may come from outside.
            keys: How many of the first cells identify a row; they head its paragraph.
        """
        cells = [[one_line(cell) for cell in row] for row in rows]
        unbounded = self._console.options.update(width=10_000)
        for padding in (1, 0):
            table = self._table(columns, cells, padding)
            if self._console.measure(table, options=unbounded).maximum <= self._console.width:
                self._show(table)
                break
        else:
            for row in cells:
                out("  ".join(row[:keys]))
                more = zip(columns[keys:], row[keys:], strict=True)
                out("  " + ", ".join(f"{name.strip()} {cell}" for name, cell in more if cell))
        out("")

    @staticmethod
    def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], padding: int) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, padding))
        for position, name in enumerate(columns):
            left = position == 0 or name.endswith(" ")
            table.add_column(name.strip(), justify="left" if left else "right", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))  # a plain text would be read as markup
        return table

    def _show(self, thing: Any) -> None:
        # By way of `out`, so that a closed pipe is found where all other output finds it.
        with self._console.capture() as capture:
            self._console.print(thing, markup=False)
        lines = [line.rstrip() for line in capture.get().splitlines()]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    @contextmanager
    def progress(self, counts: Progress, note: Callable[[], str]) -> Iterator[Callable[[], None]]:
        """Show *counts* and a *note* on a terminal as long as the with block runs; what it gives is called after each change."""
        if not self._console.is_terminal:
            yield lambda: None
            return
        import rich.progress as r
        from rich.text import Text

        class Counts(r.ProgressColumn):
            max_refresh = None

            def render(self, task: r.Task) -> Text:
                return Text(", ".join(filter(None, (counts.text(task.elapsed or 0.0), note()))))

        spinner = "line" if self._console.options.ascii_only else "dots"
        bar = [r.BarColumn(bar_width=30)] if self._console.width >= 80 else []
        columns = (r.SpinnerColumn(spinner), *bar, Counts())
        with r.Progress(*columns, console=self._console, transient=True) as live:
            task = live.add_task("", total=counts.total)
            yield lambda: live.update(task, completed=counts.done)
