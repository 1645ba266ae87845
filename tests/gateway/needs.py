"""Skips the test modules that import this where a package is missing."""

import pytest

for package in ("eventbus_redis", "starlette", "uvicorn", "websockets"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install --group browser")
