"""Types of settings that hold the address of a system."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

HttpAddress = Annotated[str, Meta(pattern="^https?://[^/]+", description="an address that begins with http:// or https://")]
"""An address of http or https."""

HTTP_URL_IN_WORDS: Final = "an address such as https://host:9200, without a user, password or question mark in it"
HttpUrl = Annotated[str, Meta(pattern=r"^https?://[^/@?#\s]+(/[^?#\s]*)?$", description=HTTP_URL_IN_WORDS)]
"""An address of http or https without a credential in it, since messages show it; a credential has settings of its own."""
