"""What Bulkhead and AdaptiveLimit stand on: permits, who waits for them, and shares of them."""
