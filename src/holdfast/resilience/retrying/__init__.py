"""What Retry stands on: delays, the budget, and what servers say about retries."""
