"""The whole of it on one machine, without an account: docs/rehearsal.md."""
