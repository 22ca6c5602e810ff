"""Report what a program does, without ever feeling it."""
