"""Says at the end of the report how far the differential test went."""

import pytest


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, line in report.user_properties:
                if name == "fuzz":
                    terminalreporter.write_line(f"differential test: {line}")
