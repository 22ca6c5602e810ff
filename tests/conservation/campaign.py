"""One campaign: programs send, faults strike by a seeded plan, everything is healed, and silver is held against what was sent."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from sidecar.spool.checkpoint import load_checkpoint
from sidecar.spool.reader import SpoolReader
from tests.conservation.parts import Chain
from tests.conservation.verdict import Expected, Verdict, judge
from tests.services.base import wait_until
from tests.services.small_disk import full
from tests.services.toxiproxy import Toxiproxy

KILLABLE = ("sidecar", "gateway", "postgres", "replicator")


@dataclass(frozen=True)
class Plan:
    """How much is sent, how fast (events a second and sender), and how many faults strike at least; `seed` decides the rest."""

    seed: int
    events: int
    rate: float
    kills: int
    networks: int
    disks: int
    pause: tuple[float, float] = (0.3, 1.5)
    drain_seconds: float = 180


@dataclass
class Outcome:
    """What happened, and what was found."""

    seed: int
    verdict: Verdict
    kills: dict[str, int]
    networks: Counter[str] = field(default_factory=Counter)
    disks: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return json.dumps(
            {
                "seed": self.seed, "acknowledged": self.verdict.acknowledged, "silver": self.verdict.rows,
                "kills": self.kills, "networks": dict(self.networks), "full disks": self.disks,
                "seconds": round(self.seconds, 1), "faults": self.verdict.faults,
            }
        )  # fmt: skip


class Campaign:
    """Runs one plan over one chain."""

    def __init__(self, plan: Plan, root: Path, spool: Path, proxy: Toxiproxy) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.chain = Chain(root, spool, proxy)
        self.root = root
        self.networks: Counter[str] = Counter()
        self.disks = 0
        self.expected = Expected()
        self.senders: list[subprocess.Popen[bytes]] = []

    def run(self) -> Outcome:
        """Send, disturb, heal, drain, judge."""
        started = time.monotonic()
        try:
            self.chain.start()
            self._send()
            self._disturb()
            self._finish_sending()
            self._drain()
            lake = Lake(LakeConfig(root=str(self.chain.folder.lake)))
            verdict = judge(lake, self.expected, self.plan.seed)
        finally:
            for sender in self.senders:
                sender.kill()
                sender.wait()
            self.chain.heal()
            self.chain.stop()
        kills = {name: part.kills for name, part in self.chain.parts.items()}
        return Outcome(self.plan.seed, verdict, kills, self.networks, self.disks, time.monotonic() - started)

    # ---------------------------------------------------------------------------------------------------------- senders

    def _send(self) -> None:
        """Two programs with the SDK (sender 0 and 1) and one of its own making (sender 2)."""
        share = self.plan.events // 3
        seed, rate = str(self.plan.seed), str(self.plan.rate)
        for sender in (0, 1):
            self.expected.counts[sender] = share
            self._start_sender(
                "tests.conservation.sdk_sender", "--config", json.dumps(self.chain.sdk_config()),
                "--seed", seed, "--sender", str(sender), "--count", str(share), "--rate", rate,
            )  # fmt: skip
        self._start_sender(
            "tests.conservation.http_sender", "--port", str(self.chain.links["program-sidecar"].port),
            "--ledger", str(self.root / "ledger"),
            "--seed", seed, "--sender", "2", "--count", str(self.plan.events - 2 * share), "--rate", rate,
        )  # fmt: skip

    def _start_sender(self, *command: str) -> None:
        log = (self.root / "logs" / f"sender-{len(self.senders)}.log").open("wb")
        with log:
            self.senders.append(subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log))

    def _sending(self) -> bool:
        return any(sender.poll() is None for sender in self.senders)

    def _finish_sending(self) -> None:
        wait_until(lambda: not self._sending(), seconds=self.plan.events / self.plan.rate + 120, what="the senders to end")
        for number, sender in enumerate(self.senders):
            log = (self.root / "logs" / f"sender-{number}.log").read_text(errors="replace")
            assert sender.returncode == 0, f"sender {number} ended with {sender.returncode}:\n{log[-3000:]}"
        self.expected.read_ledger(2, self.root / "ledger")

    # ----------------------------------------------------------------------------------------------------------- faults

    def _disturb(self) -> None:
        """Strike by the plan, in random order; what is left when the senders have ended strikes the chain while it drains."""
        faults: list[Callable[[], None]] = [
            *[lambda name=name: self._kill(name) for name in (KILLABLE * self.plan.kills)[: self.plan.kills]],
            *[self._disturb_network] * self.plan.networks,
            *[self._fill_disk] * self.plan.disks,
        ]
        self.rng.shuffle(faults)
        for fault in faults:
            time.sleep(self.rng.uniform(*self.plan.pause))
            fault()

    def _kill(self, name: str) -> None:
        part = self.chain.parts[name]
        part.kill()
        time.sleep(self.rng.uniform(0, 1))
        part.start()

    def _disturb_network(self) -> None:
        name = self.rng.choice(sorted(self.chain.links))
        link = self.chain.links[name]
        kind = self.rng.choice(("stall", "reset", "cut", "slow"))
        match kind:
            case "stall":
                link.poison("timeout", timeout=0)
            case "reset":
                link.poison("reset_peer", timeout=self.rng.randrange(0, 300))
            case "cut":
                link.cut()
            case _:
                link.poison("latency", latency=500, jitter=400)
        time.sleep(self.rng.uniform(0.5, 3))
        link.heal()
        self.networks[f"{kind} {name}"] += 1

    def _fill_disk(self) -> None:
        with full(self.chain.spool):
            time.sleep(self.rng.uniform(1, 3))
        self.disks += 1

    # ------------------------------------------------------------------------------------------------------------ drain

    def _drain(self) -> None:
        """Let everything arrive: adopt what the SDKs left, deliver, close the segments, replicate."""
        self.chain.heal()
        for name in ("postgres", "gateway", "sidecar"):
            self.chain.wait_ready(name)
        spool = SpoolReader(self.chain.spool)

        def delivered() -> bool:
            if any(self.chain.folder.sdk_spool.glob("*.jsonl*")):
                return False
            try:
                backends = self.chain.health()["backends"]
            except (httpx.HTTPError, KeyError):
                return False
            return all(backend["lag_events"] == 0 for backend in (backends.values() if isinstance(backends, dict) else backends))

        self._wait(delivered, "the sidecar to adopt and deliver everything")

        def replicated() -> bool:
            segments = spool.segments()
            last = segments[-1].last_seq if segments else 0
            return load_checkpoint(self.chain.spool, "lake") >= last

        self._wait(replicated, "the lake to read the whole spool")
        # Once more from a standing start, so that silver has seen the last of bronze.
        self.chain.parts["replicator"].kill()
        done = subprocess.run(
            [sys.executable, "-m", "tests.conservation.replicator", "--once"],
            env=self.chain.parts["replicator"].env, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"the last replication failed:\n{done.stdout[-2000:]}{done.stderr[-6000:]}"

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_until(condition, seconds=self.plan.drain_seconds, what=what, interval=0.5)
        except TimeoutError as error:
            logs = "\n\n".join(f"{name}:\n{part.tail()}" for name, part in self.chain.parts.items())
            raise AssertionError(f"{error} (seed {self.plan.seed})\n{logs}") from error
