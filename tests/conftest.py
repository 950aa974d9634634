"""Numbers that a test measured and a reader wants to see, printed after the run even when all is well."""

import pytest

_LINES: dict[str, None] = {}


@pytest.fixture
def report():
    """Call it with a line; it is printed once in the terminal summary."""
    return lambda line: _LINES.setdefault(line)


def pytest_terminal_summary(terminalreporter):
    if _LINES:
        terminalreporter.section("measured")
        for line in _LINES:
            terminalreporter.write_line(line)
