import pytest

from sdmad.drafting.endpoint import Endpoint
from tests.drafting import Stub


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch):
    def make(stub: Stub, timeout: float = 20.0) -> Endpoint:
        for name, value in stub.environment.items():
            monkeypatch.setenv(name, value)
        return Endpoint("stub-model", timeout)

    return make
