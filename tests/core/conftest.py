"""One test, every way to call a function under a pipeline."""

import pytest

from core.forms import FORMS, Runner


@pytest.fixture(params=FORMS)
def run(request: pytest.FixtureRequest) -> Runner:
    return Runner(request.param)
