"""The music: clips, and the credits of their tracks; and the health check."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from survey.clips import FORMATS
from survey.web.dependencies import CurrentSite, KnownRater, Visitor
from survey.web.schemas import TOKEN

router = APIRouter()


class ClipResponse(FileResponse):
    """A clip's file, read in one piece."""

    chunk_size = 1 << 20


@router.get("/clip/{token}/{place}.{suffix}", response_class=FileResponse)
def clip(
    site: CurrentSite,
    rater: KnownRater,
    token: Annotated[str, Path(pattern=TOKEN)],
    place: Annotated[int, Path(ge=0, le=2)],
    suffix: Literal["ogg", "m4a"],
) -> Response:
    """The clip at a place of one of the rater's own rounds."""
    found = site.store.clip_of(token, rater, place)
    if found is None:
        raise HTTPException(404, "there is no such clip")
    path = site.library.path(*found, suffix)
    # Private: no shared cache may keep it; the browser may, so that it is sent once.
    headers = {"Cache-Control": "private, max-age=3600"}
    return ClipResponse(path, media_type=FORMATS[suffix], headers=headers)


@router.get("/credits", response_class=HTMLResponse)
def credits(request: Request, site: CurrentSite, session: Visitor) -> Response:
    """The artist, title, album and licence of every track."""
    tracks = sorted(site.library.tracks.values(), key=lambda t: (t.artist, t.album, t.title))
    return site.page(request, "credits.html", session, tracks=tracks)


@router.get("/healthz")
def healthz(site: CurrentSite) -> dict[str, str]:
    """Whether the database answers."""
    site.store.secret()
    return {"status": "ok"}
