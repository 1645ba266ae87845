"""The Redis backend behind sentinels, held against the guarantees."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from eventbus_core.testing import BackendSuite
from tests.sentinels import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.mark.redis
class TestSentinel(BackendSuite):
    @pytest.fixture
    def uri(self, service: Service) -> str:
        return service.uri

    @pytest.fixture
    def restart(self, service: Service) -> Callable[[], object]:
        """Have a replica take over."""
        return service.fail_over

    @pytest.fixture
    def freeze(self, service: Service) -> Callable[[], AbstractContextManager[object]]:
        """Have the primary hang; a replica takes over if that lasts."""

        @contextmanager
        def freeze() -> Iterator[None]:
            primary = service.primary
            primary.pause()
            try:
                yield
            finally:
                primary.resume()

        return freeze
