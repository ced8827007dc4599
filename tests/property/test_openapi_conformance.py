"""Whatever fits the OpenAPI document is answered as it says, and whatever does not is refused as it says.

schemathesis generates the requests and applies all its checks: no server error, no status, header, media type or body
that is not documented, valid requests taken, invalid ones and those without a token refused.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.conformance import api, check
from tests.served_gateway import served_gateway


@pytest.fixture(scope="module")
def served():
    with served_gateway() as it:
        yield it


@api.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented(case, served):
    check(case, served.url, served.gateway.headers())
