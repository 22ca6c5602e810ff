"""Talking to Dagster's web server: what runs, what is healthy, and starting things, over its GraphQL interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from contract.errors import TrackMateError
from trackmate.unreachable import Unreachable

_HEALTH = """
{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatErrors { message } } } }
  workspaceOrError { __typename
    ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } }
    ... on PythonError { message } } }
"""
_BACKFILL = """
mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) { __typename
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } ... on UnauthorizedError { message }
  ... on InvalidSubsetError { message } ... on PartitionSetNotFoundError { message }
  ... on PartitionKeysNotFoundError { message } } }
"""
_BACKFILL_STATE = """
query($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename
  ... on PartitionBackfill { status numPartitions error { message }
    assetBackfillData { assetBackfillStatuses { __typename
      ... on AssetPartitionsStatusCounts { assetKey { path } numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed
        numPartitionsInProgress }
      ... on UnpartitionedAssetStatus { assetKey { path } materialized failed inProgress } } } }
  ... on PythonError { message } } }
"""
_PARTITIONS = """
query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { __typename
  ... on AssetNode { partitionKeys isPartitioned } } }
"""
_RUNS = """
query($filter: RunsFilter, $limit: Int) { runsOrError(filter: $filter, limit: $limit) { __typename
  ... on Runs { results { runId status jobName startTime endTime assetSelection { path } } } ... on PythonError { message } } }
"""
_ASSETS = "{ assetNodes { assetKey { path } groupName isPartitioned } }"


@dataclass(frozen=True)
class Run:
    """One run of Dagster's."""

    run_id: str
    status: str
    job: str
    assets: tuple[str, ...]

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status in {"SUCCESS", "FAILURE", "CANCELED"}


@dataclass(frozen=True)
class BackfillState:
    """How far a backfill is, in partitions."""

    status: str
    wanted: int
    done: int
    failed: int
    problem: str | None

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status.startswith("COMPLETED") or self.status in {"FAILED", "CANCELED"}


class DagsterApi:
    """One Dagster web server."""

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self.url = url
        self._client = httpx.Client(timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """The `data` of an answer; raises TrackMateError when there is none, Unreachable when nothing answers."""
        try:
            response = self._client.post(f"{self.url}/graphql", json={"query": text, "variables": variables})
        except httpx.HTTPError as error:
            raise Unreachable(f"Dagster does not answer at {self.url} ({error})") from error
        try:
            answer = response.json()
        except ValueError as error:
            raise TrackMateError(
                f"{self.url} answered {response.status_code} without JSON: is that Dagster's web server?"
            ) from error
        if answer.get("errors"):
            raise TrackMateError(f"Dagster refused a query: {answer['errors'][0].get('message')}")
        data: dict[str, Any] = answer["data"]
        return data

    def problems(self) -> list[str]:
        """What keeps Dagster from working: a location that does not load, a daemon without heartbeat."""
        data = self.query(_HEALTH)
        workspace = data["workspaceOrError"]
        found = []
        if workspace["__typename"] == "PythonError":
            found.append(f"workspace: {workspace['message']}")
        for entry in workspace.get("locationEntries", []):
            loaded = entry["locationOrLoadError"]
            if entry["loadStatus"] != "LOADED" or loaded is None:
                found.append(f"code location {entry['name']} is loading")
            elif loaded["__typename"] == "PythonError":
                found.append(f"code location {entry['name']} does not load: {loaded['message'].strip()}")
        for daemon in data["instance"]["daemonHealth"]["allDaemonStatuses"]:
            if daemon["required"] and not daemon["healthy"]:
                errors = [error["message"].strip() for error in daemon["lastHeartbeatErrors"] or []]
                found.append(f"daemon {daemon['daemonType']} has no heartbeat{': ' + errors[0] if errors else ''}")
        return found

    def asset_keys(self) -> dict[str, bool]:
        """Every asset as a dotted name, and whether it is partitioned."""
        return {".".join(node["assetKey"]["path"]): node["isPartitioned"] for node in self.query(_ASSETS)["assetNodes"]}

    def partitions(self, asset: str) -> list[str]:
        """The partition keys of an asset, oldest first."""
        node = self.query(_PARTITIONS, key={"path": asset.split(".")})["assetNodeOrError"]
        if node["__typename"] != "AssetNode":
            raise TrackMateError(f"Dagster knows no asset {asset!r}: it has {', '.join(sorted(self.asset_keys()))}")
        keys: list[str] = node["partitionKeys"]
        return keys

    def launch_backfill(self, assets: list[str], partitions: list[str], tags: dict[str, str]) -> str:
        """Start a backfill and return its id."""
        params = {
            "assetSelection": [{"path": asset.split(".")} for asset in assets],
            "partitionNames": partitions,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        answer = self.query(_BACKFILL, params=params)["launchPartitionBackfill"]
        if answer["__typename"] != "LaunchBackfillSuccess":
            raise TrackMateError(f"Dagster did not start the backfill: {answer.get('message', answer['__typename'])}")
        backfill: str = answer["backfillId"]
        return backfill

    def backfill(self, backfill_id: str) -> BackfillState:
        """How far a backfill is."""
        state = self.query(_BACKFILL_STATE, id=backfill_id)["partitionBackfillOrError"]
        if state["__typename"] != "PartitionBackfill":
            raise TrackMateError(f"Dagster knows no backfill {backfill_id}: {state.get('message', '')}")
        counts = (state["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
        wanted = sum(count.get("numPartitionsTargeted", 1) for count in counts) or state["numPartitions"] or 0
        done = sum(count.get("numPartitionsMaterialized", int(count.get("materialized", False))) for count in counts)
        failed = sum(count.get("numPartitionsFailed", int(count.get("failed", False))) for count in counts)
        problem = state["error"]["message"].strip() if state["error"] else None
        return BackfillState(state["status"], wanted, done, failed, problem)

    def runs(self, *, statuses: list[str] | None = None, run_ids: list[str] | None = None, limit: int = 50) -> list[Run]:
        """The latest runs, newest first."""
        wanted = {name: value for name, value in (("statuses", statuses), ("runIds", run_ids)) if value}
        answer = self.query(_RUNS, filter=wanted, limit=limit)["runsOrError"]
        if answer["__typename"] != "Runs":
            raise TrackMateError(f"Dagster can't list its runs: {answer.get('message', answer['__typename'])}")
        return [
            Run(run["runId"], run["status"], run["jobName"], tuple(".".join(key["path"]) for key in run["assetSelection"] or ()))
            for run in answer["results"]
        ]
