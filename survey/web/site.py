"""What every page works with: one `Site` for each application, and its pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from survey.clips import ClipLibrary
from survey.config import SurveyConfig
from survey.database.rows import Rater
from survey.database.store import Store
from survey.results.report import ReportCache
from survey.rounds.assign import Assigner
from survey.web.limits import RateLimiter
from survey.web.sessions import Session, Sessions

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Survey:
    """One survey, ready to be served. owner_token: None for no owner's page."""

    config: SurveyConfig
    store: Store
    library: ClipLibrary
    assigner: Assigner
    owner_token: str | None = None


class Site:
    """A survey as a web site: its sessions, rate limits, templates and the owner's report."""

    def __init__(self, survey: Survey) -> None:
        self.config = survey.config
        self.store = survey.store
        self.library = survey.library
        self.assigner = survey.assigner
        self.owner_token = survey.owner_token
        self.sessions = Sessions(survey.store.secret(), survey.config.secure)
        self.limiter = RateLimiter()
        self.reports = ReportCache(
            survey.store, survey.assigner.embeddings, survey.config.temperature
        )
        self._templates = Jinja2Templates(HERE / "templates")
        self._templates.env.globals.update(config=survey.config, len=len)

    def page(
        self, request: Request, name: str, session: Session | None, status: int = 200, **values: Any
    ) -> Response:
        """The page of the template `name`; a visitor without a session gets one, for its forms."""
        blank = HTMLResponse()
        session = session or self.sessions.write(blank, None)
        values |= {"csrf": self.sessions.csrf(session)}
        response = self._templates.TemplateResponse(request, name, values, status)
        for cookie in blank.headers.getlist("set-cookie"):
            response.headers.append("set-cookie", cookie)
        return response

    def private_link(self, rater: Rater, request: Request) -> str:
        """The address that signs the rater in on any device."""
        base = self.config.public_url.rstrip("/") or str(request.base_url).rstrip("/")
        return f"{base}/back/{self.sessions.link(rater.name)}"
