"""AWS and the upstream in memory, for the real policy with a test's own clock and faults: see `aws.py`."""
