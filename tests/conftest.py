"""Fixtures that every part's tests share: real servers, each started once a session and only if a test asks for it."""
