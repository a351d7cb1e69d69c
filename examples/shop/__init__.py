"""A shop of four services: gateway -> orders -> inventory and payments."""
