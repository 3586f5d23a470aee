"""The project's own tests run pytest itself, in subprocesses, as a user would."""

pytest_plugins = ["pytester"]
