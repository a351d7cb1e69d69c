"""Processes: a supervisor that owns the sockets and never runs user code, and the workers that do."""
