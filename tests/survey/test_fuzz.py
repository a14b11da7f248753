"""schemathesis on the application's OpenAPI schema: no request causes a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error

from survey.clips import ClipLibrary
from survey.database.store import Store
from survey.rounds.assign import Assigner
from survey.web.app import create_app
from survey.web.site import Survey

from .conftest import CONFIG
from .test_app import Person

pytestmark = pytest.mark.slow

OWNER = "a-long-owner-token"
EXAMPLES = 8  # requests for each operation


def attack(operation: Any, person: Person, csrf: str, statuses: set[int]) -> None:
    """Sends the valid and invalid requests that schemathesis generates for one operation."""
    cases = operation.as_strategy()
    if operation.body or operation.path_parameters:
        cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: Case) -> None:
        if csrf:
            case.headers = {**(case.headers or {}), "X-CSRF": csrf}
            if isinstance(case.body, dict) and case.path != "/api/answer":
                case.body = {**case.body, "csrf": csrf}
        jar = {cookie.name: str(cookie.value) for cookie in person.http.cookies.jar}
        reply = case.call(cookies=jar)
        statuses.add(reply.status_code)
        case.validate_response(reply, checks=[not_a_server_error])

    send()


@pytest.mark.parametrize("signed_in", [False, True])
def test_no_request_makes_a_server_error(
    store: Store, library: ClipLibrary, signed_in: bool
) -> None:
    """Once without cookies; once with those of a rater and the owner, and a valid CSRF token."""
    app = create_app(Survey(CONFIG, store, library, Assigner(store, library, CONFIG), OWNER))
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 15
    seen: dict[str, set[int]] = {}
    for operation in operations:
        # Requests go to the application object, not over the network.
        person = Person(app)
        csrf = ""
        if signed_in:
            person.start()
            csrf = person.csrf("/owner")
            person.http.post("/owner", data={"csrf": csrf, "token": OWNER})
        statuses = seen.setdefault(f"{operation.method.upper()} {operation.path}", set())

        attack(operation, person, csrf, statuses)
    for name, statuses in seen.items():
        assert statuses and max(statuses) < 500, (name, statuses)
    if signed_in:  # with a valid token, some requests reach the handlers
        assert any(s in (200, 303, 404) for s in seen["POST /api/answer"] | seen["POST /undo"])
        assert seen["POST /api/rounds"] & {200, 422}
