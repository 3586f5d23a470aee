"""The service that takes the customers' money."""


class PaymentsUnavailableError(Exception):
    """The service does not answer; it may when asked again."""


class Payments:
    """Takes money. The real one asks another system over the network."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}

    async def take(self, order_id: str, cents: int) -> None:
        """Take so many cents for an order."""
        self.taken[order_id] = cents
