"""What each policy costs a call, beside the peers that have the same: ``python -m benchmarks.policies``."""
