"""The music: clips and credits; the sound check, the poster with its QR code; the health check."""

from __future__ import annotations

import io
from typing import Annotated, Literal

import segno
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from survey.clips import FORMATS
from survey.web.dependencies import CurrentSite, KnownRater, Visitor
from survey.web.middleware import HEAD
from survey.web.schemas import TOKEN
from survey.web.site import Site

InviteCode = Annotated[str, Query(max_length=40)]
router = APIRouter()


class ClipResponse(FileResponse):
    """A clip's file, read in one piece."""

    chunk_size = 1 << 20


@router.get("/clip/{token}/{place}.{suffix}", response_class=FileResponse)
def clip(
    request: Request,
    site: CurrentSite,
    rater: KnownRater,
    token: Annotated[str, Path(pattern=TOKEN)],
    place: Annotated[int, Path(ge=0, le=2)],
    suffix: Literal["ogg", "m4a"],
) -> Response:
    """The clip at a place of one of the rater's own rounds."""
    found = site.store.clip_of(token, rater, place, sent=HEAD not in request.scope)
    if found is None:
        raise HTTPException(404, "there is no such clip")
    return clip_response(site, found, suffix)


@router.get("/practice/{place}.{suffix}", response_class=FileResponse)
def practice_clip(
    site: CurrentSite,
    _: KnownRater,
    place: Annotated[int, Path(ge=0, le=2)],
    suffix: Literal["ogg", "m4a"],
) -> Response:
    """A clip of the practice round, which is the same for every rater."""
    return clip_response(site, site.practice[place], suffix)


def clip_response(site: Site, clip: tuple[str, int], suffix: str) -> Response:
    """The file of a (track, excerpt)."""
    path = site.library.path(*clip, suffix)
    # Private: no shared cache may keep it; the browser may, so that it is sent once.
    headers = {"Cache-Control": "private, max-age=3600"}
    return ClipResponse(path, media_type=FORMATS[suffix], headers=headers)


@router.get("/credits", response_class=HTMLResponse)
def credits(request: Request, site: CurrentSite, session: Visitor) -> Response:
    """The artist, title, album and licence of every track."""
    tracks = sorted(site.library.tracks.values(), key=lambda t: (t.artist, t.album, t.title))
    return site.page(request, "credits.html", session, tracks=tracks)


@router.get("/check", response_class=HTMLResponse)
def check_page(request: Request, site: CurrentSite, session: Visitor) -> Response:
    """A check of the volume and of the headphones."""
    return site.page(request, "check.html", session)


@router.get("/poster", response_class=HTMLResponse)
def poster(
    request: Request, site: CurrentSite, session: Visitor, invite: InviteCode = ""
) -> Response:
    """A page to print, with the survey's address as a QR code; invite: with this code."""
    address = site.invited_url(request, invite)
    return site.page(request, "poster.html", session, address=address, invite=invite)


@router.get("/qr.svg", response_class=Response)
def qr_code(request: Request, site: CurrentSite, invite: InviteCode = "") -> Response:
    """The survey's address as a QR code, with error correction M: 15 % of it may be damaged."""
    out = io.BytesIO()
    try:
        code = segno.make(site.invited_url(request, invite), error="m", micro=False)
    except segno.DataOverflowError as error:  # the Host header may be of any length
        raise HTTPException(400, "this address is too long for a QR code") from error
    code.save(out, kind="svg", scale=8, border=4, light="#fff")
    return Response(out.getvalue(), media_type="image/svg+xml")


@router.get("/healthz")
def healthz(site: CurrentSite) -> dict[str, str]:
    """Whether the database answers."""
    site.store.secret()
    return {"status": "ok"}
