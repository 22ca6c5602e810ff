"""`python -m trackmate`: the same as the `trackmate` command."""

from trackmate.cli import app

app(prog_name="trackmate")
