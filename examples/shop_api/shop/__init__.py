"""A small web shop: FastAPI in front, two brokers and a scheduler of taskiq behind."""
