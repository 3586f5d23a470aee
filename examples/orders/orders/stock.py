"""What the shop sells, and the service that knows how much of it there is."""

PRICES = {"tea": 450, "coffee": 890, "cup": 1290, "pot": 3900}
"""Prices in cents."""


class StockServiceError(Exception):
    """The stock service does not answer; it may when asked again."""


class StockService:
    """Knows what is in stock, and reserves it. The real one asks another system over the network."""

    def __init__(self) -> None:
        self.stock = {"tea": 100, "coffee": 20, "cup": 3, "pot": 0}

    def has(self, sku: str, quantity: int) -> bool:
        """Return whether so many are there."""
        return self.stock.get(sku, 0) >= quantity

    def reserve(self, sku: str, quantity: int) -> None:
        """Put so many aside."""
        self.stock[sku] -= quantity
