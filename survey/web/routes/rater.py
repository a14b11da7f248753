"""A rater's pages: consent, the private link, their data, and leaving."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Path, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from survey.web.dependencies import FORM, CurrentSite, KnownRater, MaybeRater, Visitor
from survey.web.limits import address_of


def _(text: str) -> str:
    """Marks a text for the catalogues; the template translates it."""
    return text


HEADPHONES = {"": _("rather not say"), "headphones": _("headphones"), "speakers": _("loudspeakers")}
AGES = {"": _("rather not say")} | {a: a for a in ("16-24", "25-34", "35-49", "50-64", "65+")}
TRAINING = {
    "": _("rather not say"),
    "none": _("none"),
    "some": _("some lessons"),
    "years": _("several years"),
    "professional": _("I work in music"),
}
TITLE = _("Which song is the odd one out?")  # the configuration's default
PAUSED = _("the survey is paused; what you answered is stored, come back later")  # Paused
NO_SUCH_LINK = _("this private link is not valid: its data was deleted, or it is incomplete")

Link = Annotated[str, Path(max_length=200)]
router = APIRouter()


@router.get("/", response_class=HTMLResponse)
def start_page(
    request: Request, site: CurrentSite, session: Visitor, rater: MaybeRater
) -> Response:
    """What the survey is, and the consent."""
    choices: dict[str, Any] = {"headphones": HEADPHONES, "ages": AGES, "training": TRAINING}
    return site.page(request, "start.html", session, rater=rater, **choices)


@router.post("/start", dependencies=FORM, response_class=RedirectResponse, status_code=303)
def start(
    request: Request,
    site: CurrentSite,
    consent: Annotated[Literal["yes"], Form()],
    headphones: Annotated[Literal[tuple(HEADPHONES)], Form()] = "",  # type: ignore[valid-type]
    age: Annotated[Literal[tuple(AGES)], Form()] = "",  # type: ignore[valid-type]
    training: Annotated[Literal[tuple(TRAINING)], Form()] = "",  # type: ignore[valid-type]
    invite: Annotated[str, Form(max_length=40)] = "",
) -> Response:
    """Stores the consent, which makes the visitor a rater."""
    limit = site.config.limits.new_raters_per_address
    site.limiter.take("consents", address_of(request.scope), limit)
    codes = site.config.invite_codes
    if codes and invite.strip() not in codes:
        raise HTTPException(403, "this invite code is not known; ask who invited you")
    response = RedirectResponse("/round", 303)
    group = codes.get(invite.strip(), "")
    site.sessions.write(response, site.store.add_rater(headphones, age, training, group).name)
    return response


@router.get("/back/{link}", response_class=HTMLResponse)
def back_page(request: Request, site: CurrentSite, session: Visitor, link: Link) -> Response:
    """A private link: asks before it signs in, so that no other site can sign a visitor in."""
    name = site.sessions.rater_of_link(link)
    rater = None if name is None else site.store.rater(name)
    if rater is None:
        raise HTTPException(404, NO_SUCH_LINK)
    return site.page(request, "back.html", session, link=link, answered=site.store.count(rater))


@router.post("/back/{link}", dependencies=FORM, response_class=RedirectResponse, status_code=303)
def back(site: CurrentSite, link: Link) -> Response:
    """Signs in the rater of a private link."""
    name = site.sessions.rater_of_link(link)
    if name is None or site.store.rater(name) is None:
        raise HTTPException(404, NO_SUCH_LINK)
    response = RedirectResponse("/round", 303)
    site.sessions.write(response, name)
    return response


@router.get("/me", response_class=HTMLResponse)
def me(request: Request, site: CurrentSite, session: Visitor, rater: MaybeRater) -> Response:
    """Everything stored about the rater, their private link, and how to delete it all."""
    if rater is None:
        return RedirectResponse("/", 303)
    person, given = site.store.all_of(rater)
    link = site.private_link(rater, request)
    tracks = site.library.tracks
    return site.page(
        request,
        "me.html",
        session,
        person=person,
        answers=given,
        link=link,
        tracks=tracks,
        sets=len(given) // site.config.goal,
        headphones=HEADPHONES,
        training=TRAINING,
    )


@router.get("/me.json")
def me_json(site: CurrentSite, rater: KnownRater) -> dict[str, Any]:
    """The same as a file to keep."""
    person, given = site.store.all_of(rater)
    return {"rater": person, "answers": given}


@router.post("/me/delete", dependencies=FORM, response_class=HTMLResponse)
def delete(
    request: Request,
    site: CurrentSite,
    rater: KnownRater,
    sure: Annotated[Literal["yes"], Form()],
) -> Response:
    """Deletes everything stored about the rater."""
    return site.page(request, "deleted.html", None, deleted=site.store.delete_rater(rater))


@router.post("/leave", dependencies=FORM, response_class=RedirectResponse, status_code=303)
def leave(site: CurrentSite, session: Visitor) -> Response:
    """Signs the rater out in this browser; the private link still works."""
    if session is not None:
        site.store.end_session(session.nonce)
    response = RedirectResponse("/", 303)
    site.sessions.forget(response)
    return response
