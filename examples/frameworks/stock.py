"""What is in stock and what has been sold: the part of each app that knows nothing of HTTP."""

import itertools
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """One product. ``price`` is in cents."""

    sku: str
    price: int


@dataclass(frozen=True)
class Order:
    """One order that has been taken."""

    id: int
    sku: str
    quantity: int


class UnknownProduct(LookupError):
    """There is no product of this name."""


class OutOfStock(Exception):
    """There is less in stock than is wanted. Its text is written for customers."""

    def __init__(self, sku: str, left: int) -> None:
        super().__init__(f"There are {left} of {sku} left.")


class Stock:
    """Products and how many there are of each. Safe from any thread."""

    def __init__(self) -> None:
        self._products = {"rope": Product("rope", 2990), "fender": Product("fender", 4950)}
        self._left = {"rope": 1000, "fender": 3}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def find(self, sku: str) -> Product:
        """The product of this name. Raises ``UnknownProduct``."""
        try:
            return self._products[sku]
        except KeyError:
            raise UnknownProduct(sku) from None

    def sell(self, sku: str, quantity: int) -> Order:
        """Take so many out of the stock. Raises ``UnknownProduct`` or ``OutOfStock``."""
        self.find(sku)
        with self._lock:
            left = self._left[sku]
            if left < quantity:
                raise OutOfStock(sku, left)
            self._left[sku] = left - quantity
            return Order(next(self._numbers), sku, quantity)
