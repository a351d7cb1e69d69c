"""What Cache, SingleFlight and Fallback stand on: keys of calls, shared executions, and what makes room."""
