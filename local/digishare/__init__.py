"""A strict fake of Digishare's public API, on real sockets with TLS; see `server.FakeDigishare`.

Reading order: `server` (how a fault spoils an answer, over `sockets`) → `api` (what Digishare answers) →
`tokens` and `campaigns` (which `queries` ask for, `pages` render, and `contacts` fill with people), in the types of
`model`. `faults` lists everything that can be made to go wrong; `admin` controls it all over HTTP.
"""
