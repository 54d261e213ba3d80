"""How tests are spread over processes: those of a file stay together, for they share what their fixtures started."""

import pytest


@pytest.hookimpl(tryfirst=True)  # before nodes are named by their group
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that use the session's `demo` stay together too: it takes minutes, and need not be made twice."""
    for item in items:
        shares_demo = "demo" in getattr(item, "fixturenames", ())
        if shares_demo:
            item.add_marker(pytest.mark.xdist_group("demo"))
    demo_files = {item.path for item in items if item.get_closest_marker("xdist_group")}
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("demo" if item.path in demo_files else item.path.stem))
