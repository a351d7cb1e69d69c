"""What Bulkhead stands on: permits, who waits for them, and shares of them."""
