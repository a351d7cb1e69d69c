"""What Breaker and Throttle stand on: states, circuits by key, windows, and events in order."""
