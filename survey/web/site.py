"""What every page works with: one `Site` for each application, and its pages."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from itsdangerous import BadSignature, URLSafeSerializer

from survey.clips import ClipLibrary
from survey.config import SurveyConfig
from survey.database.rows import Rater
from survey.database.store import Store
from survey.results.report import ReportCache
from survey.rounds.assign import Assigner
from survey.web.languages import negotiate, translations
from survey.web.limits import RateLimiter
from survey.web.sessions import Session, Sessions
from survey.web.sets import TrackMap

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
        self.practice = _practice_clips(survey.library)
        embeddings = survey.assigner.embeddings
        self.map = None if embeddings is None else TrackMap(embeddings)
        self._shares = URLSafeSerializer(
            survey.store.secret(),
            salt="share",
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )
        self._templates = Jinja2Templates(HERE / "templates")
        self._templates.env.add_extension("jinja2.ext.i18n")
        self._templates.env.policies["ext.i18n.trimmed"] = True
        self._templates.env.globals.update(config=survey.config, len=len)

    def page(
        self, request: Request, name: str, session: Session | None, status: int = 200, **values: Any
    ) -> Response:
        """The page of the template `name`, in the browser's language.

        A visitor without a session gets one, for its forms.
        """
        blank = HTMLResponse()
        session = session or self.sessions.write(blank, None)
        language = negotiate(request.headers.get("accept-language", ""))
        texts = translations(language)
        values |= {
            "csrf": self.sessions.csrf(session),
            "language": language,
            "gettext": texts.gettext,
            "ngettext": texts.ngettext,
            "survey_title": texts.gettext(self.config.title),
            "base": self.base_url(request),
        }
        response = self._templates.TemplateResponse(request, name, values, status)
        for cookie in blank.headers.getlist("set-cookie"):
            response.headers.append("set-cookie", cookie)
        response.headers["Vary"] = "Accept-Language"
        response.headers["Content-Language"] = language
        return response

    def base_url(self, request: Request) -> str:
        """The address of the survey for raters, without a slash at its end."""
        return self.config.public_url.rstrip("/") or str(request.base_url).rstrip("/")

    def invited_url(self, request: Request, invite: str) -> str:
        """The address that fills in an invite code; without one, that of the survey.

        The code is not checked here, where guesses would not be limited.
        """
        base = self.base_url(request)
        return f"{base}/?{urlencode({'invite': invite})}" if invite else base

    def private_link(self, rater: Rater, request: Request) -> str:
        """The address that signs the rater in on any device."""
        return f"{self.base_url(request)}/back/{self.sessions.link(rater.name)}"

    def share_path(self, rater: Rater, number: int) -> str:
        """The path of the page that shows a rater's set to others; it does not sign anybody in."""
        return f"/s/{self._shares.dumps([rater.id, number, self._share_mark(rater)])}"

    def shared_set(self, token: str) -> tuple[int, int] | None:
        """The (rater's id, set's number) of a shared link; None when it is wrong or has ended."""
        try:
            rater_id, number, mark = self._shares.loads(token)
        except (BadSignature, ValueError):  # ValueError: a link of 0.11.0 or older, without a mark
            return None
        rater = self.store.rater_of_id(int(rater_id))
        if rater is None or not hmac.compare_digest(mark, self._share_mark(rater)):
            return None
        return rater.id, int(number)

    def _share_mark(self, rater: Rater) -> str:
        """What ends a shared link with its rater: SQLite gives the id of a deleted row again.

        It does not tell the rater's name.
        """
        secret = self.store.secret().encode()
        return hmac.new(secret, b"share " + rater.name.encode(), "sha256").hexdigest()[:16]


def _practice_clips(library: ClipLibrary) -> tuple[tuple[str, int], ...]:
    """The (track, excerpt) of the practice round: two of one track, then one of another artist.

    A track without a second excerpt, where no track has one, is played twice; in music of one
    artist, the last is another track.
    """
    tracks = library.tracks
    two = library.two_excerpt_tracks
    same = two[0] if two else next(iter(tracks))
    others = [t for t in tracks.values() if t.artist_key != tracks[same].artist_key]
    others = others or [t for t in tracks.values() if t.id != same]
    apart = [t for t in others if not t.genres & tracks[same].genres] or others
    return (same, 0), (same, 1 if two else 0), (apart[-1].id, 0)
