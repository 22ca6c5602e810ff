"""The agent that takes every event to disk before it says yes, and routes it."""
