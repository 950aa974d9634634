"""For tests and notebooks alike: numbers that a test measured and a reader wants to see, printed
after the run even when all is well; and patience with a busy machine.
"""

import pytest


@pytest.fixture
def report(request):
    """Call it with a line; it is printed once in the terminal summary."""
    # which come along from the processes of `pytest -n`, too
    return lambda line: request.node.user_properties.append(("measured", line))


@pytest.fixture(scope="session")
def chromium():
    """A browser to drive pages in; None where there is none."""
    from tests.helpers import browser

    with browser.launched() as found:
        yield found


def pytest_collection_modifyitems(items):
    """nbval gives a cell's last output 5 seconds to arrive, which a busy machine may take."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 120


def pytest_terminal_summary(terminalreporter):
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    lines = dict.fromkeys(
        value
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "measured"
    )
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
