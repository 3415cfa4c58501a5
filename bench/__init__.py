"""`make bench`: the built artefacts beside four reference handlers, on one machine in one run.

The ratios are the results: absolute times of a shared machine say little. docs/performance.md says what is measured and
has the results; docs/growth.md says how the cost grows.
"""
