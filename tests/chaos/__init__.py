"""Tests that kill, starve and cut off: the command is the installed one, looked at from outside."""
