"""MongoDB's wire protocol, spoken by mongo-java-server, a re-implementation: no accounts, no transactions, no replica set."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Final, Self

from tests.services.apt import ensure_packages
from tests.services.base import CACHE, Service, cache_lock, free_port, port_open
from tests.services.maven import maven_jars

VERSION: Final = "1.47.0"
_MAIN: Final = """
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;

public class MongoForTests {
    public static void main(String[] arguments) throws Exception {
        MongoServer server = new MongoServer(arguments.length > 1 ? new H2Backend(arguments[1]) : new MemoryBackend());
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        server.bind("127.0.0.1", Integer.parseInt(arguments[0]));
        Thread.currentThread().join();
    }
}
"""


def _program() -> Path:
    """A folder with the jars and our compiled `MongoForTests`; made once, kept in the cache."""
    names = ("mongo-java-server", "mongo-java-server-h2-backend", "mongo-java-server-memory-backend")
    jars = maven_jars(f"mongo-java-server-{VERSION}", *(f"de.bwaldvogel:{name}:{VERSION}" for name in names))
    with cache_lock(f"mongo-for-tests-{VERSION}") as target:
        if not target.is_dir():
            if shutil.which("javac") is None:
                ensure_packages("openjdk-17-jdk-headless")
            draft = Path(tempfile.mkdtemp(prefix="mongo-for-tests-", dir=CACHE))
            try:
                source = draft / "MongoForTests.java"
                source.write_text(_MAIN)
                subprocess.run(["javac", "-cp", f"{jars}/*", source], check=True, capture_output=True)
                draft.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target


class MongoService(Service):
    """One server; `durable` keeps its databases in a file, so that they outlive a restart."""

    name = "mongo"

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self.port = free_port()
        self._durable = durable

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it empty."""
        self.restart()
        return self

    def restart(self) -> None:
        """Start it with what it kept."""
        program = _program()
        jars = program.with_name(f"mongo-java-server-{VERSION}")
        file = [self.folder / "databases.mv"] if self._durable else []
        options = ["-Xmx512M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        self.spawn(
            ["java", *options, "-cp", f"{jars}/*:{program}", "MongoForTests", str(self.port), *file],
            ready=lambda: port_open(self.port),
        )

    def end(self) -> None:
        """Stop it in good order; `restart` starts it again."""
        self.kill(signal.SIGTERM)

    def fresh_database(self) -> str:
        """The name of a database that nobody has used."""
        return f"test_{uuid.uuid4().hex[:12]}"
