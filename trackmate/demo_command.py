"""`trackmate demo`: everything started, a simulated fab at work, and what became of its events."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from contract.errors import TrackMateError
from trackmate import terminal
from trackmate.dagster_api import DagsterApi
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption
from trackmate.fab.answers import questions
from trackmate.fab.ledger import Ledger
from trackmate.fab.plan import plan_fab
from trackmate.fab.reckoning import PLACES, Reckoning, count_place, quoted, reckon
from trackmate.fab.shift import LEAD_SECONDS, ShiftOrders, shift
from trackmate.gateway_api import GatewayApi
from trackmate.generated_config import generate
from trackmate.health import fetch_json
from trackmate.services import StackConfig, read_stack
from trackmate.stack import Stopper, run_until_stopped, running_stack, stop_signals
from trackmate.supervisor import Supervisor
from trackmate.up_command import PortOffset, print_addresses, start_display

SITE = "fab1"
_ARRIVAL_SECONDS = 300.0
_GOLD_SECONDS = 180.0
_POLL = 1.0
_EXIT_DIFFERENT = 1


def demo(
    data: DataOption = DEFAULT_DATA,
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="How long the simulated fab works.")] = 60.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print what arrived and stop; exit code 0 only when all counts agree.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same shift.", show_default="a new one")] = None,
    port_offset: PortOffset = None,
) -> None:
    """Start everything, let a simulated fab work for a minute through the real SDK, and show what arrived where.

    Five tools process lots of 25 wafers: nested contexts, drifting sensors, state changes, failures, late events, and events that
    are sent twice. Afterwards the stack keeps running until Ctrl-C, unless you say --once.

    Examples:

        trackmate demo

        trackmate demo --once --seconds 5 --seed 7
    """
    folder = DataFolder(data)
    generate(folder, port_offset)
    stack = read_stack(folder)
    chosen = random.randrange(10**6) if seed is None else seed  # noqa: S311 - a simulation
    with (
        stop_signals() as stopper,
        start_display() as display,
        running_stack(stack, stopper, on_event=display) as supervisor,
    ):
        display.finish()
        if stopper.asked():
            raise typer.Exit(130)
        different = _Demo(stack, supervisor, stopper, seconds, chosen).run(goes_on=not once)
        if not once and not stopper.asked():
            terminal.stdout().print("The stack keeps running; Ctrl-C stops everything.")
            run_until_stopped(supervisor, stopper)
    if once and (different or stopper.asked()):
        raise typer.Exit(_EXIT_DIFFERENT)


class _Stopped(Exception):
    """The user has had enough."""


class _Demo:
    def __init__(self, stack: StackConfig, supervisor: Supervisor, stopper: Stopper, seconds: float, seed: int) -> None:
        self._stack = stack
        self._supervisor = supervisor
        self._stopper = stopper
        self._seconds = seconds
        self._seed = seed
        self._instance = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}-{seed}"
        self._console = terminal.stdout()
        gateway = stack.endpoints["gateway"]
        self._gateway = GatewayApi(gateway.url, certificate=gateway.certificate)
        self._dagster = DagsterApi(stack.endpoints["dagster"].url)

    def run(self, *, goes_on: bool) -> bool:
        """The whole demo; True when a count differs. `goes_on`: the stack keeps running after it."""
        try:
            ledgers = self._work()
            emitted = sum(ledger.emitted for ledger in ledgers)
            self._await_arrival(emitted)
            reckoning = reckon(ledgers, self._gateway.sql, self._instance)
            differences = reckoning.differences()
            self._show_counts(reckoning, differences)
            if not differences:
                self._await_gold()
            self._show_answers()
            self._show_next(goes_on=goes_on)
        except _Stopped:
            return True
        finally:
            self._gateway.close()
            self._dagster.close()
        return bool(differences)

    # ------------------------------------------------------------------------------------------------------------- the steps

    def _work(self) -> list[Ledger]:
        tools = plan_fab(self._seed, self._seconds)
        planned = sum(tool.events() for tool in tools)
        self._console.print(
            f"{len(tools)} tools work for {self._seconds:g} s and will emit {planned:,} events (seed {self._seed})", markup=False
        )
        orders = ShiftOrders(
            seed=self._seed,
            seconds=self._seconds,
            site=SITE,
            instance=self._instance,
            sidecar=self._stack.endpoints["sidecar"].url,
            sdk_config=self._stack.folder.sdk_yaml,
            folder=self._stack.folder.logs / "fab",
        )
        before = self._taken()
        with shift(orders) as going, terminal.bar("the fab works", self._seconds + LEAD_SECONDS) as bar:
            while going.going_on():
                self._pause(0.5)
                bar.update(time.time() - going.starts_at + LEAD_SECONDS, f"{self._taken() - before:,} events acknowledged")
            return going.ledgers()

    def _taken(self) -> int:
        _status, said = fetch_json(self._stack.endpoints["sidecar"], "/health")
        return int(said["spool"]["last_event"]) if isinstance(said, dict) and "spool" in said else 0

    def _await_arrival(self, emitted: int) -> None:
        """Wait until every place has the events; Dagster's sensors start the replication by themselves."""
        counts = dict.fromkeys(PLACES, 0)

        def arrived() -> bool:
            for table in PLACES:
                if counts[table] < emitted:
                    counts[table] = count_place(self._gateway.sql, table, self._instance)[1]
            return min(counts.values()) >= emitted

        def note() -> str:
            return ", ".join(f"{table.removesuffix('.events')} {count:,}" for table, count in counts.items()) + self._runs()

        self._await("replication", arrived, lambda: min(counts.values()), emitted, note, _ARRIVAL_SECONDS)

    def _await_gold(self) -> None:
        """Wait until the shift's runs are in silver, and gold has counted all that silver has."""
        mine = f"(SELECT run_id FROM silver.events WHERE app_instance_id = {quoted(self._instance)} AND kind = 'start')"  # noqa: S608 - quoted
        here = f"WHERE site_id = {quoted(SITE)}"
        equal = (
            (f"SELECT count(*) FROM {mine}", f"SELECT count(*) FROM silver.runs WHERE run_id IN {mine}"),  # noqa: S608 - quoted
            (f"SELECT count(*) FROM silver.runs {here}", f"SELECT sum(runs) FROM gold.run_hourly {here}"),  # noqa: S608 - quoted
            (
                f"SELECT count(*) FROM silver.events {here} AND kind = 'error'",  # noqa: S608 - quoted
                f"SELECT sum(events) FROM gold.error_pareto {here}",  # noqa: S608 - quoted
            ),
        )

        def number(statement: str) -> int:
            return int(self._gateway.sql(statement).value or 0)

        def computed() -> bool:
            return all(number(one) == number(other) for one, other in equal) and not self._going("compute_gold")

        self._await("gold", computed, lambda: 0, None, lambda: f"computing the answers{self._runs()}", _GOLD_SECONDS)

    def _going(self, job: str) -> bool:
        return any(run.job == job and not run.over for run in self._dagster.runs(limit=5))

    def _runs(self) -> str:
        try:
            going = [run for run in self._dagster.runs(limit=5) if not run.over]
        except TrackMateError:
            return ""
        return "".join(f"; Dagster: {run.job} {run.status.lower()}" for run in going[:1])

    def _await(
        self,
        label: str,
        done: Callable[[], bool],
        measure: Callable[[], float],
        total: float | None,
        note: Callable[[], str],
        seconds: float,
    ) -> None:
        deadline = time.monotonic() + seconds
        with terminal.bar(label, total) as bar:
            while not done():
                bar.update(measure(), note())
                if time.monotonic() > deadline:
                    bar.say(f"{label}: gave up waiting after {seconds:g} s ({note()})")
                    return
                self._pause(_POLL)

    def _pause(self, seconds: float) -> None:
        failure = self._supervisor.failure()
        if failure is not None:
            raise TrackMateError(failure)
        if self._stopper.wait(seconds):
            raise _Stopped

    # --------------------------------------------------------------------------------------------------------- what is shown

    def _show_counts(self, reckoning: Reckoning, differences: list[str]) -> None:
        self._console.print()
        rows = reckoning.table_rows()
        self._console.print(terminal.table("What became of the events", ["", "events", ""], rows, right=["events"]))
        if differences:
            self._console.print("[red]The counts differ:[/red]")
            for difference in differences:
                self._console.print(f"  - {difference}", markup=False)
        else:
            self._console.print("[green]Every event is in every place, exactly once.[/green]")

    def _show_answers(self) -> None:
        for question in questions(SITE):
            answer = self._gateway.sql(question.sql)
            self._console.print()
            if not answer.rows:
                self._console.print(f"{question.title}  (no rows)", markup=False)
                continue
            numbers = [name for place, name in enumerate(answer.columns) if isinstance(answer.rows[0][place], int | float)]
            self._console.print(terminal.table(question.title, answer.columns, answer.rows, right=numbers))

    def _show_next(self, *, goes_on: bool) -> None:
        self._console.print()
        if goes_on:
            print_addresses(self._stack)
        folder = self._stack.folder
        default = folder.root == DataFolder(DEFAULT_DATA).root
        config = "" if default else f" --config {shlex.quote(str(folder.trackmate_yaml))}"
        data = "" if default else f" --data {shlex.quote(str(folder.root))}"
        example = '"SELECT name, count(*) FROM silver.events GROUP BY name"'
        program = _program()
        lines = (
            "Try next, in another terminal:" if goes_on else f"Try next, after {program} up{data}:",
            f"  {program} sql {example}{config}",
            f"  {program} status{data}",
            f"  {program} ingest --suggest-mapping YOUR.csv",
            f"  MONITORING_CONFIG={shlex.quote(str(folder.sdk_yaml))} {_beside('python')} your_program.py",
        )
        self._console.print("\n".join(lines), markup=False)


def _program() -> str:
    """How this program is called from here: by its name where that is found, else by its path."""
    if shutil.which("trackmate"):
        return "trackmate"
    return _beside("trackmate")


def _beside(name: str) -> str:
    """A program of this installation, by its path."""
    beside = Path(sys.executable).with_name(name)
    return shlex.quote(os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside))
