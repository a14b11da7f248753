"""The round's page, and the calls that it makes."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from survey.database.rows import Conflict, ListenedTooBriefly, NoSuchRound
from survey.web.dependencies import CALL, FORM, CurrentSite, KnownRater, MaybeRater, Visitor
from survey.web.schemas import REFUSALS, AnswerIn, RoundsOut, StoredOut, Token, to_round_out

router = APIRouter()


@router.get("/round", response_class=HTMLResponse)
def round_page(
    request: Request, site: CurrentSite, session: Visitor, rater: MaybeRater
) -> Response:
    """The current round."""
    if rater is None:
        return RedirectResponse("/", 303)
    found = site.assigner.rounds(rater, 1)
    answered = site.store.count(rater)
    if not found:
        return site.page(request, "done.html", session, answered=answered)
    site.store.show(found[0])
    return site.page(
        request,
        "round.html",
        session,
        round=json.dumps(to_round_out(found[0]).model_dump()),
        answered=answered,
        last=site.store.last_answered(rater),
    )


@router.post("/undo", dependencies=FORM, response_class=RedirectResponse, status_code=303)
def undo(site: CurrentSite, rater: KnownRater, round: Annotated[Token, Form()]) -> Response:
    """Deletes the last answer; nothing happens when `round` is not the last one."""
    site.store.undo(rater, round)
    return RedirectResponse("/round", 303)


@router.post("/api/answer", dependencies=CALL, responses=REFUSALS)
def answer(site: CurrentSite, rater: KnownRater, given: AnswerIn) -> StoredOut:
    """Stores an answer; once this returns it is on disk. Sending it again changes nothing."""
    site.limiter.take("answers", rater.name, site.config.limits.answers_per_rater)
    try:
        stored = site.store.answer(rater, given.round, given.place, given.listened_s)
    except NoSuchRound as error:
        raise HTTPException(404, str(error)) from error
    except Conflict as error:
        raise HTTPException(409, str(error)) from error
    except ListenedTooBriefly as error:
        raise HTTPException(422, str(error)) from error
    current = None if stored.current is None else to_round_out(stored.current)
    return StoredOut(answered=stored.answered, current=current)


@router.post("/api/rounds", dependencies=CALL, responses=REFUSALS)
def open_rounds(site: CurrentSite, rater: KnownRater) -> RoundsOut:
    """The current round and the next, whose clips can be loaded already."""
    found = site.assigner.rounds(rater, 2)
    if found:
        site.store.show(found[0])
    rounds = [to_round_out(round_) for round_ in found[:2]]
    return RoundsOut(answered=site.store.count(rater), rounds=rounds)
