"""The prompt of `trackmate sql`: statements until `;`, history, completion, and a few commands that begin with a dot."""

from __future__ import annotations

import atexit
import difflib
import os
import readline
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from sqlglot import TokenType, tokenize
from sqlglot.errors import TokenError

from contract.errors import TrackMateError
from trackmate.sql_output import show_columns, show_tables

HISTORY_LINES: Final = 2_000
PROMPT: Final = "trackmate> "
MORE: Final = "       ..> "
HELP: Final = """\
End a statement with ; and it runs. Ctrl-C stops it, Ctrl-D or .quit ends.

  .tables            what can be asked for
  .schema TABLE      its columns and what they mean
  .explain SELECT …  how a statement would be run: files left out, conditions pushed down, cache
  .help              this text
  .quit              end

  SELECT kind, count(*) FROM silver.events WHERE timestamp >= now() - INTERVAL '1 hour' GROUP BY kind;
  SELECT time_bucket(INTERVAL '5 minutes', timestamp) AS t, percentile(value, 0.95) FROM silver.metrics GROUP BY t;
"""

_WORDS: Final = ("SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "JOIN", "AND", "INTERVAL", "count(*)", "timestamp")


class Prompt:
    """Reads statements from a terminal or from standard input, and runs them with `run`."""

    def __init__(self, run: Callable[[str], None], tables: Callable[[], list[dict[str, Any]]], console: Console) -> None:
        self._run = run
        self._tables = tables
        self._console = console
        self._interactive = sys.stdin.isatty()
        self._known: list[dict[str, Any]] | None = None

    def loop(self) -> int:
        """Until the end of the input; the number of statements that failed."""
        failed = 0
        if self._interactive:
            self._set_up_readline()
            self._console.print("TrackMate SQL: end statements with [bold];[/bold], [bold].help[/bold] for more", highlight=False)
        for text in self._statements():
            try:
                self._obey(text)
            except TrackMateError as error:
                failed += 1
                self._console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
            except KeyboardInterrupt:
                self._console.print("stopped")
            except EOFError:
                break
        return failed

    def _obey(self, text: str) -> None:
        if not text.startswith("."):
            self._run(text)
            return
        command, _, rest = text.partition(" ")
        match command:
            case ".tables":
                show_tables(self._catalog(fresh=True), self._console)
            case ".schema":
                show_columns(self._find(rest.strip().rstrip(";")), self._console)
            case ".explain":
                self._run(f"EXPLAIN {rest}")
            case ".help":
                self._console.print(HELP, markup=False, highlight=False)
            case ".quit" | ".exit":
                raise EOFError
            case _:
                message = f"there is no command {command}: .help lists them"
                raise TrackMateError(message)

    def _catalog(self, *, fresh: bool = False) -> list[dict[str, Any]]:
        if fresh or self._known is None:
            self._known = self._tables()
        return self._known

    def _find(self, name: str) -> dict[str, Any]:
        tables = {table["name"]: table for table in self._catalog(fresh=True)}
        if name in tables:
            return tables[name]
        near = [known for known in tables if known.endswith(f".{name}")] or difflib.get_close_matches(name, tables, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else ".tables lists them"
        message = f"there is no table {name!r}: {hint}"
        raise TrackMateError(message)

    def _statements(self) -> Iterator[str]:
        lines: list[str] = []
        while True:
            try:
                line = self._line(MORE if lines else PROMPT)
            except EOFError:
                break
            except KeyboardInterrupt:
                lines = []
                self._console.print()
                continue
            if not lines and line.startswith("."):
                yield line.strip()
                continue
            if lines or line.strip():
                lines.append(line)
            if lines and complete("\n".join(lines)):
                yield "\n".join(lines)
                lines = []
        if lines:
            yield "\n".join(lines)

    def _line(self, prompt: str) -> str:
        if self._interactive:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def _set_up_readline(self) -> None:
        history = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "trackmate" / "sql_history"
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            if history.exists():
                readline.read_history_file(history)
        except OSError as error:
            self._console.print(f"the history of earlier statements can't be read ({error.strerror}): going on without it")
        else:
            readline.set_history_length(HISTORY_LINES)
            atexit.register(readline.write_history_file, history)
        readline.set_completer(self._completion)
        readline.set_completer_delims(" \t\n,()=<>;")
        readline.parse_and_bind("tab: complete")

    def _completion(self, text: str, state: int) -> str | None:
        try:
            tables = self._catalog()
        except TrackMateError:
            tables = []
        words = {*_WORDS, *(table["name"] for table in tables)}
        words |= {column["name"] for table in tables for column in table["columns"]}
        found = sorted(word for word in words if word.lower().startswith(text.lower()))
        return found[state] if state < len(found) else None


def complete(text: str) -> bool:
    """Whether the text ends with the `;` that ends a statement: not one in a string or a comment."""
    try:
        tokens = tokenize(text, read="duckdb")
    except TokenError:
        return False
    return bool(tokens) and tokens[-1].token_type is TokenType.SEMICOLON
