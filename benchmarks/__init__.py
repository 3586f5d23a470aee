"""What the kit costs: ``make bench``."""
