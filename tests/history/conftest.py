from tests.every_backend import pytest_generate_tests, pytest_pyfunc_call, quiet_logs, uri  # noqa: F401
