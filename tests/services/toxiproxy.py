"""Toxiproxy: TCP proxies that stall, reset and cut what passes through them."""

from __future__ import annotations

from typing import Any, Self

import httpx

from tests.services.base import Service, free_port, go_binary, port_open

VERSION = "v2.5.0"


class Link:
    """One proxied connection between two parts; `port` is where the caller connects."""

    def __init__(self, api: httpx.Client, name: str, port: int) -> None:
        self._api = api
        self.name = name
        self.port = port

    def poison(self, kind: str, *, stream: str = "downstream", **attributes: Any) -> None:
        """Add a toxic such as `latency` (latency, jitter: ms), `timeout` (timeout: ms; 0 stalls for ever) or `reset_peer`."""
        toxic = {"type": kind, "name": f"{kind}-{stream}", "stream": stream, "attributes": attributes}
        self._api.post(f"/proxies/{self.name}/toxics", json=toxic).raise_for_status()

    def cut(self) -> None:
        """Refuse connections and end those that are open."""
        self._api.post(f"/proxies/{self.name}", json={"enabled": False}).raise_for_status()

    def heal(self) -> None:
        """Remove every toxic and let connections through."""
        for toxic in self._api.get(f"/proxies/{self.name}/toxics").raise_for_status().json():
            self._api.delete(f"/proxies/{self.name}/toxics/{toxic['name']}").raise_for_status()
        self._api.post(f"/proxies/{self.name}", json={"enabled": True}).raise_for_status()


class Toxiproxy(Service):
    """The proxy server; `link` makes a proxied connection."""

    name = "toxiproxy"

    def start(self) -> Self:
        """Build it once, start it, wait for its API."""
        binary = go_binary("toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server", VERSION)
        port = free_port()
        self.spawn([binary, "-host", "127.0.0.1", "-port", str(port)], ready=lambda: port_open(port))
        # Toxiproxy refuses what looks like a browser.
        self._api = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"User-Agent": "trackmate-tests"}, trust_env=False, timeout=10
        )
        return self

    def link(self, name: str, upstream_port: int, *, port: int | None = None) -> Link:
        """A proxied connection to a loopback port; `port` is for a server that tells its clients where to come."""
        port = port or free_port()
        body = {"name": name, "listen": f"127.0.0.1:{port}", "upstream": f"127.0.0.1:{upstream_port}", "enabled": True}
        self._api.post("/proxies", json=body).raise_for_status()
        return Link(self._api, name, port)

    def stop(self) -> None:
        """End the proxy."""
        self._api.close()
        super().stop()
