"""AWS and the upstream in memory, for the real policy under a clock and faults of our own: see `aws.py`."""
