import pytest

from tests.every_backend import pytest_pyfunc_call, quiet_logs  # noqa: F401


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
