"""`make bench`: the built artefacts beside four reference handlers, on one machine in one run.

Figures that matter are ratios: absolute times of a shared machine say little. What is measured, and what came out,
stands in docs/performance.md; how the cost grows, in docs/growth.md.
"""
