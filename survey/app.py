"""The pages and the three calls behind them."""

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Form, Header, HTTPException, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as AnyHTTPException

from survey import results
from survey.assign import Assigner
from survey.clips import FORMATS, ClipLibrary
from survey.config import SurveyConfig
from survey.store import Conflict, HeardTooLittle, NoSuchRound, Rater, Round, Store, now
from survey.web import Guard, RateLimiter, Session, Sessions, TooMany, address_of, too_many

HERE = Path(__file__).parent
HEADPHONES = {"": "rather not say", "headphones": "headphones", "speakers": "loudspeakers"}
AGES = {"": "rather not say"} | {a: a for a in ("16-24", "25-34", "35-49", "50-64", "65+")}
TRAINING = {
    "": "rather not say",
    "none": "none",
    "some": "some lessons",
    "years": "several years",
    "professional": "I work in music",
}

Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]
Heard = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class AnswerIn(BaseModel):
    """One answer: the round's token, the odd one's place (null: can't tell), seconds heard."""

    model_config = ConfigDict(extra="forbid", strict=True)
    round: Token
    place: Annotated[int, Field(ge=0, le=2)] | None
    heard_s: Annotated[list[Heard], Field(min_length=3, max_length=3)]


class RoundOut(BaseModel):
    """A round as the page needs it; a clip's address ends in .ogg or .m4a."""

    token: str
    clips: list[str]


class StoredOut(BaseModel):
    """The answer is on disk; `current` is the round that the rater is shown now."""

    answered: int
    current: RoundOut | None


class RoundsOut(BaseModel):
    """The rater's open rounds: the current one, and the one after it."""

    answered: int
    rounds: list[RoundOut]


class ErrorOut(BaseModel):
    """Why a request was refused."""

    error: str


@dataclass(frozen=True)
class Survey:
    """All that the pages work with. owner_token: None for no owner's page."""

    config: SurveyConfig
    store: Store
    library: ClipLibrary
    assigner: Assigner
    owner_token: str | None = None


class ClipResponse(FileResponse):
    """A clip's file, read in one piece."""

    chunk_size = 1 << 20


def _sent(round_: Round) -> RoundOut:
    clips = [f"/clip/{round_.clips_token}/{place}" for place in range(3)]
    return RoundOut(token=round_.token, clips=clips)


def create_app(survey: Survey) -> FastAPI:
    """The ASGI application of one survey."""
    config, store, library = survey.config, survey.store, survey.library
    sessions = Sessions(store.secret(), config.secure)
    limiter = RateLimiter()
    templates = Jinja2Templates(HERE / "templates")
    templates.env.globals.update(config=config, len=len)
    # docs_url would load scripts of a third party; the schema itself is for the tests.
    app = FastAPI(title="feelprint survey", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        Guard, limiter=limiter, per_address=config.limits.per_address, secure=config.secure
    )
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": ErrorOut} for code in (401, 403, 404, 409, 422, 429)
    }

    # -- who is asking: what does not wait for the database is async, and costs no thread

    async def visitor(request: Request) -> Session | None:
        return sessions.read(request)

    Visitor = Annotated[Session | None, Depends(visitor)]

    def visiting_rater(session: Visitor) -> Rater | None:
        if session is None or session.rater is None:
            return None
        limiter.take("pages", session.rater, config.limits.pages_per_rater)
        return store.rater(session.rater)

    MaybeRater = Annotated[Rater | None, Depends(visiting_rater)]

    async def known_rater(rater: MaybeRater) -> Rater:
        if rater is None:
            raise HTTPException(401, "please start, or come back by your private link")
        return rater

    KnownRater = Annotated[Rater, Depends(known_rater)]

    async def posted_form(session: Visitor, csrf: Annotated[str, Form(max_length=64)] = "") -> None:
        if not sessions.csrf_holds(session, csrf):
            raise HTTPException(403, "this form is too old or not ours; go back and try again")

    async def posted_json(
        session: Visitor, x_csrf: Annotated[str, Header(max_length=64)] = ""
    ) -> None:
        if not sessions.csrf_holds(session, x_csrf):
            raise HTTPException(403, "this page is too old; load it again")

    form = [Depends(posted_form)]

    def page(
        request: Request, name: str, session: Session | None, status: int = 200, **values: Any
    ) -> Response:
        """A page; a visitor without a session gets one, for the forms on it."""
        blank = HTMLResponse()
        session = session or sessions.write(blank, None)
        values |= {"csrf": sessions.csrf(session)}
        response = templates.TemplateResponse(request, name, values, status)
        for cookie in blank.headers.getlist("set-cookie"):
            response.headers.append("set-cookie", cookie)
        return response

    def private_link(rater: Rater, request: Request) -> str:
        base = config.public_url.rstrip("/") or str(request.base_url).rstrip("/")
        return f"{base}/back/{sessions.link(rater.name)}"

    # -- pages

    @app.get("/", response_class=HTMLResponse)
    def start_page(request: Request, session: Visitor, rater: MaybeRater) -> Response:
        """What this is, and the consent."""
        choices: dict[str, Any] = {"headphones": HEADPHONES, "ages": AGES, "training": TRAINING}
        return page(request, "start.html", session, rater=rater, **choices)

    @app.post("/start", dependencies=form, response_class=RedirectResponse, status_code=303)
    def start(
        request: Request,
        consent: Annotated[Literal["yes"], Form()],
        headphones: Annotated[Literal[tuple(HEADPHONES)], Form()] = "",  # type: ignore[valid-type]
        age: Annotated[Literal[tuple(AGES)], Form()] = "",  # type: ignore[valid-type]
        training: Annotated[Literal[tuple(TRAINING)], Form()] = "",  # type: ignore[valid-type]
    ) -> Response:
        """Consent: from here on there is a rater."""
        where = address_of(request.scope)
        limiter.take("consents", where, config.limits.new_raters_per_address)
        response = RedirectResponse("/round", 303)
        sessions.write(response, store.add_rater(headphones, age, training).name)
        return response

    @app.get("/round", response_class=HTMLResponse)
    def round_page(request: Request, session: Visitor, rater: MaybeRater) -> Response:
        """The current round."""
        if rater is None:
            return RedirectResponse("/", 303)
        found = survey.assigner.rounds(rater, 1)
        answered = store.count(rater)
        if not found:
            return page(request, "done.html", session, answered=answered)
        store.show(found[0])
        return page(
            request,
            "round.html",
            session,
            round=json.dumps(_sent(found[0]).model_dump()),
            answered=answered,
            last=store.last_answered(rater),
        )

    @app.post("/undo", dependencies=form, response_class=RedirectResponse, status_code=303)
    def undo(rater: KnownRater, round: Annotated[Token, Form()]) -> Response:
        """Takes the last answer back; nothing happens when `round` is not the last one."""
        store.undo(rater, round)
        return RedirectResponse("/round", 303)

    @app.get("/me", response_class=HTMLResponse)
    def me(request: Request, session: Visitor, rater: MaybeRater) -> Response:
        """What is stored of the rater, their private link, and how to delete it all."""
        if rater is None:
            return RedirectResponse("/", 303)
        person, given = store.all_of(rater)
        link = private_link(rater, request)
        tracks = library.tracks
        return page(
            request, "me.html", session, person=person, answers=given, link=link, tracks=tracks
        )

    @app.get("/me.json")
    def me_json(rater: KnownRater) -> dict[str, Any]:
        """The same as a file to keep."""
        person, given = store.all_of(rater)
        return {"rater": person, "answers": given}

    @app.post("/me/delete", dependencies=form, response_class=HTMLResponse)
    def delete(
        request: Request, rater: KnownRater, sure: Annotated[Literal["yes"], Form()]
    ) -> Response:
        """Deletes all that is stored of the rater."""
        deleted = store.delete_rater(rater)
        response = page(request, "deleted.html", None, deleted=deleted)
        return response

    @app.post("/leave", dependencies=form, response_class=RedirectResponse, status_code=303)
    def leave() -> Response:
        """Forgets the rater in this browser; the private link still works."""
        response = RedirectResponse("/", 303)
        sessions.forget(response)
        return response

    Link = Annotated[str, InPath(max_length=200)]

    @app.get("/back/{link}", response_class=HTMLResponse)
    def back_page(request: Request, session: Visitor, link: Link) -> Response:
        """A private link: asks before it signs in, so that no foreign page can do it unseen."""
        name = sessions.rater_of_link(link)
        rater = None if name is None else store.rater(name)
        if rater is None:
            raise HTTPException(404, "this private link leads nowhere: its data was deleted")
        return page(request, "back.html", session, link=link, answered=store.count(rater))

    @app.post("/back/{link}", dependencies=form, response_class=RedirectResponse, status_code=303)
    def back(link: Link) -> Response:
        """Signs the owner of a private link in."""
        name = sessions.rater_of_link(link)
        if name is None or store.rater(name) is None:
            raise HTTPException(404, "this private link leads nowhere: its data was deleted")
        response = RedirectResponse("/round", 303)
        sessions.write(response, name)
        return response

    @app.get("/credits", response_class=HTMLResponse)
    def credits(request: Request, session: Visitor) -> Response:
        """Whose music it is, and under which licence."""
        tracks = sorted(library.tracks.values(), key=lambda t: (t.artist, t.album, t.title))
        return page(request, "credits.html", session, tracks=tracks)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the database answers."""
        store.secret()
        return {"status": "ok"}

    # -- the calls that the round's page makes

    api: Callable[..., Any] = app.post
    json_call: dict[str, Any] = {"dependencies": [Depends(posted_json)], "responses": refusals}

    @api("/api/answer", **json_call)
    def answer(rater: KnownRater, given: AnswerIn) -> StoredOut:
        """Stores an answer; once this returns it is on disk. Sending it again changes nothing."""
        limiter.take("answers", rater.name, config.limits.answers_per_rater)
        try:
            stored = store.answer(rater, given.round, given.place, given.heard_s)
        except NoSuchRound as error:
            raise HTTPException(404, str(error)) from error
        except Conflict as error:
            raise HTTPException(409, str(error)) from error
        except HeardTooLittle as error:
            raise HTTPException(422, str(error)) from error
        current = None if stored.current is None else _sent(stored.current)
        return StoredOut(answered=stored.answered, current=current)

    @api("/api/rounds", **json_call)
    def open_rounds(rater: KnownRater) -> RoundsOut:
        """The current round and the next, whose clips can be loaded already."""
        found = survey.assigner.rounds(rater, 2)
        if found:
            store.show(found[0])
        return RoundsOut(answered=store.count(rater), rounds=[_sent(r) for r in found[:2]])

    @app.get("/clip/{token}/{place}.{suffix}", response_class=FileResponse)
    def clip(
        rater: KnownRater,
        token: Annotated[str, InPath(pattern=r"^[A-Za-z0-9_-]{22}$")],
        place: Annotated[int, InPath(ge=0, le=2)],
        suffix: Literal["ogg", "m4a"],
    ) -> Response:
        """The clip at a place of one of the rater's own rounds."""
        found = store.clip_of(token, rater, place)
        if found is None:
            raise HTTPException(404, "there is no such clip")
        path = library.path(*found, suffix)
        # Private: no shared cache may keep it; the browser may, so that it is sent once.
        headers = {"Cache-Control": "private, max-age=3600"}
        return ClipResponse(path, media_type=FORMATS[suffix], headers=headers)

    # -- the owner

    if survey.owner_token is not None:
        owner_token = survey.owner_token
        reports: list[results.Report] = []

        def report() -> results.Report:
            """The figures; reading every answer takes a while, so for a minute the same ones."""
            if not reports or (now() - reports[-1].when).total_seconds() > 60:
                embeddings = survey.assigner.embeddings
                reports[:] = [results.report(store, embeddings, config.temperature)]
            return reports[-1]

        @app.get("/owner", response_class=HTMLResponse)
        def owner_page(request: Request, session: Visitor) -> Response:
            """The figures, for whoever gave the owner's token."""
            if not sessions.is_owner(request, owner_token):
                return page(request, "owner_login.html", session, wrong=False)
            return page(request, "owner.html", session, report=report())

        @app.post("/owner", dependencies=form, response_class=HTMLResponse)
        def owner_login(
            request: Request, session: Visitor, token: Annotated[str, Form(max_length=200)]
        ) -> Response:
            """Takes the owner's token."""
            limiter.take("owner", address_of(request.scope), config.limits.owner_logins)
            if not hmac.compare_digest(token.encode(), owner_token.encode()):
                return page(request, "owner_login.html", session, 403, wrong=True)
            response = RedirectResponse("/owner", 303)
            sessions.write_owner(response, owner_token)
            return response

    # -- what goes wrong

    def refuse(request: Request, status: int, text: str) -> Response:
        if request.url.path.startswith(("/api/", "/clip/", "/me.json")):
            return JSONResponse({"error": text}, status)
        return page(request, "error.html", sessions.read(request), status, text=text)

    @app.exception_handler(AnyHTTPException)
    def refused(request: Request, error: AnyHTTPException) -> Response:
        return refuse(request, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"][1:])
        return refuse(request, 422, f"{where}: {first['msg']}".lstrip(": "))

    @app.exception_handler(TooMany)
    def limited(request: Request, error: TooMany) -> Response:
        return too_many(error)

    return app
