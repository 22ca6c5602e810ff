"""Java programs that test servers come from: their jars, copied once from Maven's repositories and kept in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

from tests.services.apt import ensure_packages
from tests.services.base import CACHE, cache_lock

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>trackmate.tests</groupId>
  <artifactId>{name}</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>{dependencies}</dependencies>
</project>
"""
_PARTS = ("groupId", "artifactId", "version", "type", "classifier")


def maven_jars(name: str, *coordinates: str) -> Path:
    """A folder with these artefacts and all that they depend on; `name` holds the version, and is the folder's in the cache.

    A coordinate is `group:artifact:version[:type[:classifier]]`. Raises RuntimeError with Maven's own words.
    """
    with cache_lock(name) as target:
        if not target.is_dir():
            _need_maven()
            draft = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
            try:
                dependencies = "".join(f"<dependency>{_elements(each)}</dependency>" for each in coordinates)
                (draft / "pom.xml").write_text(_POM.format(name=escape(name), dependencies=dependencies))
                jars = draft / "jars"
                _run(draft, "dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime")
                jars.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target


def _elements(coordinate: str) -> str:
    return "".join(f"<{part}>{escape(value)}</{part}>" for part, value in zip(_PARTS, coordinate.split(":"), strict=False))


def _need_maven() -> None:
    if shutil.which("mvn") is None or shutil.which("java") is None:
        ensure_packages("openjdk-17-jre-headless", "maven")


def _run(folder: Path, *arguments: str) -> None:
    command = ["mvn", "--batch-mode", "--quiet", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        message = f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        raise RuntimeError(message)
