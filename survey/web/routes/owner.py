"""The owner's page, behind the owner's token."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from survey.web.dependencies import FORM, CurrentSite, Visitor
from survey.web.limits import address_of
from survey.web.site import Site

router = APIRouter()


@router.get("/owner", response_class=HTMLResponse)
def owner_page(request: Request, site: CurrentSite, session: Visitor) -> Response:
    """The figures, for whoever has logged in with the owner's token."""
    if not site.sessions.is_owner(request, _token(site)):
        return site.page(request, "owner_login.html", session, wrong=False)
    return site.page(request, "owner.html", session, report=site.reports.get())


@router.post("/owner", dependencies=FORM, response_class=HTMLResponse)
def owner_login(
    request: Request,
    site: CurrentSite,
    session: Visitor,
    token: Annotated[str, Form(max_length=200)],
) -> Response:
    """Logs the owner in."""
    limit = site.config.limits.owner_logins
    site.limiter.take("owner", address_of(request.scope), limit)
    if not hmac.compare_digest(token.encode(), _token(site).encode()):
        return site.page(request, "owner_login.html", session, 403, wrong=True)
    response = RedirectResponse("/owner", 303)
    site.sessions.write_owner(response, _token(site))
    return response


def _token(site: Site) -> str:
    assert site.owner_token is not None  # without one, the application leaves this router out
    return site.owner_token
