"""The round's page and the calls that it makes; the end of a set, and the link to share it."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Path, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from survey.database.rows import Conflict, ListenedTooBriefly, NoSuchRound, Rater
from survey.web.dependencies import CALL, FORM, CurrentSite, KnownRater, MaybeRater, Visitor
from survey.web.schemas import REFUSALS, AnswerIn, RoundsOut, StoredOut, Token, to_round_out
from survey.web.sets import agreement, given_answers, last_answer, streak_days

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
    practice = None
    if answered == 0:
        practice = json.dumps(_practice(rater))  # the page asks for /api/rounds when it is over
    else:
        site.store.show(found[0])
    last = last_answer(site.store, rater)
    return site.page(
        request,
        "round.html",
        session,
        round=json.dumps(to_round_out(found[0]).model_dump()),
        answered=answered,
        practice=practice,
        last=None if last is None else json.dumps(last),
    )


def _practice(rater: Rater) -> dict[str, Any]:
    """The practice round: its clips by place, and the place of the odd one out, by the rater."""
    odd = int(rater.name, 16) % 3
    same = iter((0, 1))
    clips = [f"/practice/{2 if place == odd else next(same)}" for place in range(3)]
    return {"clips": clips, "odd": odd}


@router.get("/sets/{number}", response_class=HTMLResponse)
def set_page(
    request: Request,
    site: CurrentSite,
    session: Visitor,
    rater: MaybeRater,
    number: Annotated[int, Path(ge=1, le=100_000)],
) -> Response:
    """The end of a set: agreement with others, the songs, the streak, the map, a link to share."""
    if rater is None:
        return RedirectResponse("/", 303)
    given = given_answers(site.store, rater.id)
    of_set = given[(number - 1) * site.config.goal : number * site.config.goal]
    if len(of_set) < site.config.goal:
        return RedirectResponse("/round", 303)
    return site.page(
        request,
        "set.html",
        session,
        number=number,
        answered=number * site.config.goal,
        given=of_set,
        tracks=site.library.tracks,
        of_set=agreement(site.store, rater.id, of_set),
        of_all=agreement(site.store, rater.id, given),
        streak=streak_days(given),
        map=None if site.map is None else site.map.taste(given[: number * site.config.goal]),
        share=site.base_url(request) + site.share_path(rater, number),
    )


@router.get("/s/{token}", response_class=HTMLResponse)
def shared_page(
    request: Request,
    site: CurrentSite,
    session: Visitor,
    token: Annotated[str, Path(max_length=200)],
) -> Response:
    """What a rater's shared link shows to others: the figures and the map of a set."""
    found = site.shared_set(token)
    given = [] if found is None else given_answers(site.store, found[0])
    if found is None or len(given) < found[1] * site.config.goal:
        raise HTTPException(
            404, "this shared link is not valid: its answers were deleted or undone"
        )
    given = given[: found[1] * site.config.goal]
    return site.page(
        request,
        "shared.html",
        session,
        answered=len(given),
        agreement=agreement(site.store, found[0], given),
        map=None if site.map is None else site.map.taste(given),
        path=f"/s/{token}",
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
