"""Access tokens: made once, shown once, kept only as a SHA-256 digest."""

import hashlib
import hmac
import secrets

PREFIX = "tm_"
"""Marks a TrackMate token, so that secret scanners and people recognise one."""


def digest(token: str) -> str:
    """SHA-256 of a token as lower-case hex: what configuration files hold."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> tuple[str, str]:
    """A fresh token of 256 random bits and its digest."""
    token = PREFIX + secrets.token_urlsafe(32)
    return token, digest(token)


def matches(token: str, expected_digest: str) -> bool:
    """Whether `token` has this digest, in constant time."""
    return hmac.compare_digest(digest(token), expected_digest.lower())
