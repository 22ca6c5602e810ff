"""`up`, `down` and what lies between: ordered, restarted, refused when in the way, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.services.base import free_port, wait_until
from tests.trackmate.conftest import TRACKMATE, trackmate
from trackmate.data_folder import DataFolder
from trackmate.generated_config import generate
from trackmate.services import read_stack
from trackmate.supervisor import MARK, Service, Supervisor, procfile_text


def use_free_ports(folder: DataFolder) -> None:
    """Generate the configuration and move every service to a free port."""
    generate(folder)
    ports = {"17000": free_port(), "17080": free_port(), "3000": free_port(), "55432": free_port()}
    for path in (folder.trackmate_yaml, folder.sidecar_yaml, folder.sdk_yaml):
        text = path.read_text()
        for old, new in ports.items():
            text = text.replace(f":{old}", f":{new}")
        path.write_text(text)


def processes_of(folder: DataFolder) -> list[psutil.Process]:
    """Every process that names the folder in its command line or was started by its supervisor."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder.root) in " ".join(process.cmdline()) or process.environ().get("TRACKMATE_DATA") == str(folder.root):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


class Up:
    """A `trackmate up` that runs."""

    def __init__(self, folder: DataFolder, *options: str) -> None:
        self.folder = folder
        folder.logs.mkdir(parents=True, exist_ok=True)
        self.output = folder.root / "output.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*TRACKMATE, "up", "--data", str(folder.root), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.output.read_text()
            running = self.folder.running()
            return running is not None and running.ready

        wait_until(ready, seconds=90, what="the stack to be ready")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture
def folder(roomy: Path) -> DataFolder:
    folder = DataFolder(roomy / "data")
    use_free_ports(folder)
    return folder


@pytest.fixture
def up(folder: DataFolder) -> Iterator[Up]:
    running = Up(folder, "--only", "sidecar")
    try:
        running.wait_ready()
        yield running
    finally:
        running.end()


def test_a_taken_port_is_named_with_its_holder_and_the_setting(folder: DataFolder):
    port = read_stack(folder).endpoints["sidecar"].port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = trackmate("up", "--data", folder.root, "--only", "sidecar")
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert f"(process {os.getpid()})" in done.stderr
    assert f"sidecar.listen in {folder.sidecar_yaml}" in done.stderr


def test_a_second_up_on_the_folder_is_told_who_has_it(up: Up, folder: DataFolder):
    done = trackmate("up", "--data", folder.root, "--only", "sidecar")
    assert done.returncode == 2
    assert f"process {up.process.pid}" in done.stderr
    assert "trackmate down" in done.stderr


def test_down_stops_everything_and_the_folder_can_be_used_again(up: Up, folder: DataFolder):
    done = trackmate("down", "--data", folder.root)
    assert done.returncode == 0, done.stderr
    assert up.process.wait(10) == 0
    assert processes_of(folder) == []
    assert trackmate("down", "--data", folder.root).stdout.startswith("Nothing runs")
    again = Up(folder, "--only", "sidecar")
    try:
        again.wait_ready()
    finally:
        again.end()


def test_an_up_that_is_killed_leaves_no_process_behind(up: Up, folder: DataFolder):
    assert processes_of(folder)
    up.process.kill()
    up.process.wait()
    wait_until(lambda: processes_of(folder) == [], seconds=30, what="the services to end after their supervisor")


def test_what_a_killed_up_has_left_is_ended_by_the_next_one(folder: DataFolder):
    stray = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: "1", "TRACKMATE_DATA": str(folder.root)})
    again = Up(folder, "--only", "sidecar")
    try:
        again.wait_ready()
        assert stray.wait(10) == -signal.SIGTERM
        assert "ended 1 processes of a stack that was killed" in again.output.read_text()
    finally:
        again.end()
        stray.kill()


def test_a_service_that_is_killed_is_started_again(up: Up, folder: DataFolder):
    url = read_stack(folder).endpoints["sidecar"].url
    (service,) = [process for process in processes_of(folder) if "--config" in process.cmdline()]
    service.kill()

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/ready", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(lambda: not service.is_running() and answers(), seconds=30, what="the sidecar to be back")
    assert "starting it again" in up.output.read_text()


def test_detach_returns_when_all_is_ready(folder: DataFolder):
    done = trackmate("up", "--data", folder.root, "--only", "sidecar", "--detach")
    try:
        assert done.returncode == 0, done.stderr
        assert "Running in the background" in done.stdout
        assert httpx.get(f"{read_stack(folder).endpoints['sidecar'].url}/ready").status_code == 200
    finally:
        trackmate("down", "--data", folder.root)
    assert processes_of(folder) == []


def test_ctrl_c_during_detach_leaves_the_stack_running(folder: DataFolder):
    # Without its database the gateway is never ready, so the signal comes while the command waits.
    command = [*TRACKMATE, "up", "--data", str(folder.root), "--only", "gateway", "--detach"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # As at a terminal: who runs tests in the background of a script has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        wait_until(lambda: folder.running() is not None, seconds=60, what="the stack has begun")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "stopped" in said
    assert processes_of(folder) == []


def test_a_service_that_can_not_start_ends_up_with_the_end_of_its_log(folder: DataFolder):
    folder.spool.write_text("a file where the spool should be")
    for options in ([], ["--detach"]):
        done = trackmate("up", "--data", folder.root, "--only", "sidecar", *options)
        assert done.returncode == 2
        assert "sidecar ended with code" in done.stderr
        assert "sidecar.log" in done.stderr
    assert processes_of(folder) == []


def test_an_unknown_service_is_refused_with_those_there_are(folder: DataFolder):
    done = trackmate("up", "--data", folder.root, "--only", "sidcar")
    assert done.returncode == 2
    assert "postgres, sidecar, gateway, dagster" in done.stderr


def test_status_says_that_services_are_down_and_so_does_its_exit_code(folder: DataFolder):
    done = trackmate("status", "--data", folder.root, "--json")
    assert done.returncode == 1
    states = {service["service"]: service["state"] for service in yaml.safe_load(done.stdout)["services"]}
    assert states["sidecar"] == "down"
    assert states["postgres"] == "down"
    assert "trackmate status" not in done.stdout


def _service(name: str, script: str, folder: Path, **options: object) -> Service:
    return Service(
        name, ("/bin/sh", "-c", script), lambda: None if (folder / f"{name}.up").exists() else "starting", "", **options
    )


def _stubborn(name: str, folder: Path) -> str:
    """A shell service that notes its start and its stop, in order, in one file."""
    return (
        f"echo start {name} >> '{folder}/order'; touch '{folder}/{name}.up'; "
        f"trap 'echo stop {name} >> \"{folder}/order\"; exit 0' TERM; while :; do sleep 0.1; done"
    )


def test_services_start_after_what_they_need_and_stop_before_it(roomy: Path):
    services = [
        _service("store", _stubborn("store", roomy), roomy),
        _service("gate", _stubborn("gate", roomy), roomy, after=("store",)),
        _service("agent", _stubborn("agent", roomy), roomy, uses=("gate",)),
    ]
    supervisor = Supervisor(procfile_text(services), services, env={**os.environ, MARK: str(os.getpid())}, cwd=roomy, logs=roomy)
    supervisor.start()
    supervisor.stop()
    order = (roomy / "order").read_text().splitlines()
    assert order.index("start store") < order.index("start gate")
    assert [line for line in order if line.startswith("stop")] == ["stop agent", "stop gate", "stop store"]


def test_a_child_that_a_service_leaves_in_another_session_is_ended_too(roomy: Path):
    script = f'setsid sh -c \'echo $$ > "{roomy}/stray"; touch "{roomy}/one.up"; exec sleep 600\' & wait'
    services = [_service("one", script, roomy)]
    supervisor = Supervisor(procfile_text(services), services, env={**os.environ, MARK: str(os.getpid())}, cwd=roomy, logs=roomy)
    supervisor.start()
    stray = psutil.Process(int((roomy / "stray").read_text()))
    supervisor.stop()
    assert not stray.is_running()


def test_a_service_that_ignores_sigterm_is_killed_when_its_time_is_over(roomy: Path):
    script = f"trap '' TERM; touch '{roomy}/deaf.up'; while :; do sleep 0.1; done"
    services = [_service("deaf", script, roomy, stop_seconds=0.5)]
    heard: list[tuple[str, str]] = []
    supervisor = Supervisor(
        procfile_text(services),
        services,
        env={**os.environ, MARK: str(os.getpid())},
        cwd=roomy,
        logs=roomy,
        on_event=lambda name, what: heard.append((name, what)),
    )
    supervisor.start()
    (pid,) = supervisor.pids().values()
    supervisor.stop()
    assert not psutil.pid_exists(pid)
    assert ("deaf", "did not stop in time: killed") in heard


def test_a_service_that_dies_again_and_again_is_given_up(roomy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trackmate.supervisor._MAX_RESTARTS", 1)
    script = f"touch '{roomy}/weak.up'; echo 'out of luck'; sleep 0.3; exit 3"
    services = [_service("weak", script, roomy)]
    supervisor = Supervisor(procfile_text(services), services, env={**os.environ, MARK: str(os.getpid())}, cwd=roomy, logs=roomy)
    try:
        supervisor.start()
        failure = wait_until(supervisor.failure, seconds=20, what="the supervisor to give up")
        assert "weak ended 2 times" in failure
        assert "out of luck" in failure
    finally:
        supervisor.stop()


def test_sigterm_while_the_stack_starts_stops_what_has_started(folder: DataFolder):
    starting = Up(folder, "--only", "sidecar", "--only", "postgres")
    wait_until(lambda: folder.running() is not None, seconds=30, what="the start")
    starting.process.send_signal(signal.SIGTERM)
    assert starting.process.wait(60) == 0
    assert processes_of(folder) == []
