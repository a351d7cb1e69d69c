"""What Hedge stands on: attempts that race, as tasks and in threads, and when the next one begins."""
