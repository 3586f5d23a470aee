"""A small shop's order processing, on taskiq."""
