"""The command line `token-broker`; `docs/calling-the-broker.md` has examples."""

from token_broker.cli.program import main

__all__ = ["main"]
