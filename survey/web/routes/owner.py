"""The owner's page, behind the owner's token."""

from __future__ import annotations

import hmac
from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, Request, Response
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
    report, paused = site.reports.get(), site.store.paused()
    return site.page(request, "owner.html", session, report=report, paused=paused)


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


@router.post("/owner/exclude", dependencies=FORM, response_class=RedirectResponse, status_code=303)
def exclude(
    request: Request,
    site: CurrentSite,
    rater: Annotated[str, Form(max_length=32)],
    excluded: Annotated[Literal["yes", "no"], Form()],
) -> Response:
    """Leaves a rater out of figures and exports, or takes them in again."""
    _check_owner(request, site)
    if not site.store.exclude(rater, excluded == "yes"):
        raise HTTPException(404, "there is no such rater")
    site.reports.forget()
    return RedirectResponse("/owner", 303)


@router.post("/owner/pause", dependencies=FORM, response_class=RedirectResponse, status_code=303)
def pause(
    request: Request, site: CurrentSite, paused: Annotated[Literal["yes", "no"], Form()]
) -> Response:
    """Pauses the survey, or resumes it."""
    _check_owner(request, site)
    site.store.pause(paused == "yes")
    return RedirectResponse("/owner", 303)


def _check_owner(request: Request, site: Site) -> None:
    if not site.sessions.is_owner(request, _token(site)):
        raise HTTPException(403, "log in as the owner first")


def _token(site: Site) -> str:
    assert site.owner_token is not None  # without one, the application leaves this router out
    return site.owner_token
