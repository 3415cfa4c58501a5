"""A strict stand-in for Digishare's public API, on real sockets with TLS; see `server.FakeDigishare`.

Reading order: `server` (how a fault spoils an answer, over `sockets`) → `api` (what Digishare answers) →
`tokens` and `campaigns` (asked by `queries`, rendered by `pages`, with the people of `contacts`), in the terms of `model`. `faults` lists
everything that can be made to go wrong; `admin` steers it all over HTTP.
"""
