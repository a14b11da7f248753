"""FastAPI dependencies: the site, who sends the request, and the check of its CSRF token.

Those that do not wait for the database are async, and so occupy no thread.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Form, Header, HTTPException, Request

from survey.database.rows import Rater
from survey.web.sessions import Session
from survey.web.site import Site


async def site_of(request: Request) -> Site:
    """The site that the application serves."""
    site: Site = request.app.state.site
    return site


CurrentSite = Annotated[Site, Depends(site_of)]


async def visitor(request: Request, site: CurrentSite) -> Session | None:
    """The visitor's session, if there is one."""
    return site.sessions.read(request)


Visitor = Annotated[Session | None, Depends(visitor)]


def visiting_rater(site: CurrentSite, session: Visitor) -> Rater | None:
    """The rater of the session, if there is one; counts the request against their limit."""
    if session is None or session.rater is None:
        return None
    site.limiter.take("pages", session.rater, site.config.limits.pages_per_rater)
    if site.store.session_ended(session.nonce):
        return None
    return site.store.rater(session.rater)


MaybeRater = Annotated[Rater | None, Depends(visiting_rater)]


async def known_rater(rater: MaybeRater) -> Rater:
    """The rater of the session; 401 without one."""
    if rater is None:
        raise HTTPException(401, "please start, or come back by your private link")
    return rater


KnownRater = Annotated[Rater, Depends(known_rater)]


async def check_form(
    site: CurrentSite, session: Visitor, csrf: Annotated[str, Form(max_length=64)] = ""
) -> None:
    """403 for a form without the session's CSRF token."""
    if not site.sessions.csrf_holds(session, csrf):
        raise HTTPException(403, "this form is too old or not ours; go back and try again")


async def check_call(
    site: CurrentSite, session: Visitor, x_csrf: Annotated[str, Header(max_length=64)] = ""
) -> None:
    """403 for a JSON call without the session's CSRF token in its header."""
    if not site.sessions.csrf_holds(session, x_csrf):
        raise HTTPException(403, "this page is too old; load it again")


FORM = [Depends(check_form)]
CALL = [Depends(check_call)]
