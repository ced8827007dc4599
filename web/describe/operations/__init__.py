"""What each route does, for people and for generated clients: the OpenAPI document and the docs page are made from this.

What is said elsewhere is not said here: the scope is the route's, a parameter is the object that its handler reads, an
answer is the type that its handler encodes, and an error's status and title are those of `web.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from web.describe.operations import dead_letters, events, publishing, service, tables, topics
from web.describe.operations.model import Operation

OPERATIONS: Final[Mapping[str, Operation]] = {
    **publishing.OPERATIONS,
    **events.OPERATIONS,
    **topics.OPERATIONS,
    **topics.OPERATIONS,
    **dead_letters.OPERATIONS,
    **tables.OPERATIONS,
    **service.OPERATIONS,
}
"""By method and path, the path without the prefix of the API, as in `GET /tables/{table}`."""
