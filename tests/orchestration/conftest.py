"""A site of real parts: an embedded PostgreSQL, a spool written by the sidecar's own log, a lake in a folder."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import yaml

from contract.codec import decode_event
from contract.framing import BodyFormat
from contract.ids import uuid7
from lakehouse.config import HotConfig, LakeConfig
from lakehouse.files import active_files
from lakehouse.hot.writer import HotWriter
from lakehouse.lake import Lake, scan
from orchestration.definitions import defs
from orchestration.resources import Site
from sidecar.spool.admission import SpoolConfig
from sidecar.spool.format import Flags
from sidecar.spool.log import SpoolLog


class SiteUnderTest:
    """Puts events where the sidecar and the gateway would, and runs Dagster's jobs over them."""

    def __init__(self, folder, dsn):
        self.folder = folder
        self.dsn = dsn
        self.spool = folder / "spool"
        self.file = folder / "trackmate.yaml"
        self.file.write_text(yaml.safe_dump({"hot": {"dsn": dsn}, "lake": {"root": "./lake", "spools": ["./spool"]}}))
        self.resource = Site(config_file=str(self.file))
        self.lake = Lake(LakeConfig(root=str(folder / "lake")))
        (folder / "dagster").mkdir()
        self.instance = dg.DagsterInstance.ephemeral(tempdir=str(folder / "dagster"))

    def into_spool(self, events):
        """Append to the spool and close the segment, as the sidecar does."""

        async def write():
            log = SpoolLog.open(SpoolConfig(dir=self.spool, readers=("lake",), segment_age=0.01))
            try:
                body = b"\n".join(json.dumps(event).encode() for event in events)
                await log.append(body, len(events), Flags(format=BodyFormat.NDJSON))
                await asyncio.sleep(0.02)
                await log.tick()
            finally:
                await log.close()

        asyncio.run(write())

    def into_hot_store(self, events):
        """Write through the gateway's writer."""

        async def write():
            async with await HotWriter.open(HotConfig.from_mapping({"dsn": self.dsn})) as writer:
                return await writer.write([decode_event(json.dumps(event).encode()) for event in events])

        return asyncio.run(write())

    def run(self, job, **options):
        """Run one job in this process."""
        definition = defs.resolve_job_def(job)
        return definition.execute_in_process(
            instance=self.instance, resources={"site": self.resource}, raise_on_error=False, **options
        )

    def tick(self, sensor):
        """The runs that a sensor asks for now."""
        with dg.build_sensor_context(instance=self.instance, resources={"site": self.resource}) as context:
            return sensor.evaluate_tick(context).run_requests or []

    def count(self, table, what="count(DISTINCT event_id)"):
        """One number from a table of the lake."""
        declared = self.lake.declaration(table)
        uris = [file.uri for file in active_files(self.lake, table, self.lake.table(table))]
        with self.lake.connect() as connection:
            return connection.execute(f"SELECT {what} FROM {scan(declared, uris)}").fetchone()[0]


@pytest.fixture
def site(tmp_path, embedded_postgres):
    made = SiteUnderTest(tmp_path, embedded_postgres.fresh_store())
    yield made
    made.instance.dispose()


def make_events(count, *, moment=None, **fields):
    """`count` events of one emitter, a second apart."""
    moment = moment or datetime.now(UTC) - timedelta(hours=1)
    emitter = uuid7()
    return [
        {
            "event_id": uuid7(int((moment.timestamp() + n) * 1000)),
            "timestamp": (moment + timedelta(seconds=n)).isoformat(),
            "kind": "log",
            "name": "step",
            "site_id": "fab1",
            "app": {"name": "tests"},
            "emitter": {"id": emitter, "seq": n + 1},
            **fields,
        }
        for n in range(count)
    ]
