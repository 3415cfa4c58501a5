"""The command line `token-broker`; `docs/calling-the-broker.md` shows it at work."""

from token_broker.cli.program import main

__all__ = ["main"]
