"""Assembles the application: the routers, the middleware, and the replies to errors."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from survey.clips import ClipError
from survey.rounds.assign import Paused
from survey.web.limits import RateLimitExceeded
from survey.web.middleware import ForwardedHops, Guard, too_many
from survey.web.routes import media, owner, rater, rounds
from survey.web.site import HERE, Site, Survey


def create_app(survey: Survey) -> FastAPI:
    """The ASGI application of one survey."""
    site = Site(survey)
    # docs_url would load scripts of a third party; the tests build the schema themselves.
    app = FastAPI(title="feelprint survey", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.site = site
    limit = site.config.limits.per_address
    app.add_middleware(Guard, limiter=site.limiter, per_address=limit, secure=site.config.secure)
    if site.config.proxy_hops:  # added last, so that it is the first to see a request
        app.add_middleware(ForwardedHops, hops=site.config.proxy_hops)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    for routes in (rater, rounds, media):
        app.include_router(routes.router)
    if site.owner_token is not None:
        app.include_router(owner.router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RateLimitExceeded, _limited)
    app.add_exception_handler(ClipError, _no_clip)
    app.add_exception_handler(Paused, _paused)
    return app


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(request, error.status_code, str(error.detail))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"][1:])
    return _refusal(request, 422, f"{where}: {first['msg']}".lstrip(": "))


def _limited(request: Request, error: Exception) -> Response:
    assert isinstance(error, RateLimitExceeded)
    return too_many(error)


def _no_clip(request: Request, error: Exception) -> Response:
    # The reason may name the track, or say that a second excerpt was wanted, as in gold rounds.
    return _refusal(request, 404, "there is no such clip")


def _paused(request: Request, error: Exception) -> Response:
    response = _refusal(request, 503, str(error))
    response.headers["Retry-After"] = "600"
    return response


def _refusal(request: Request, status: int, text: str) -> Response:
    """The reason, as JSON to a call and as a page to a visitor."""
    if request.url.path.startswith(("/api/", "/clip/", "/me.json")):
        return JSONResponse({"error": text}, status)
    site: Site = request.app.state.site
    return site.page(request, "error.html", site.sessions.read(request), status, text=text)
