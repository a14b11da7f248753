"""What the round's page sends and receives, as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from survey.database.rows import Round

TOKEN = r"^[A-Za-z0-9_-]{22}$"  # 16 random bytes in URL-safe base64
Token = Annotated[str, Field(pattern=TOKEN)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class AnswerIn(BaseModel):
    """One answer: the round's token, the place of the odd one out, and the listening times.

    place: 0 to 2, or null for "can't tell"; listened_s: seconds for which each clip played, by
    place.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    round: Token
    place: Annotated[int, Field(ge=0, le=2)] | None
    listened_s: Annotated[list[Seconds], Field(min_length=3, max_length=3)]

    @model_validator(mode="before")
    @classmethod
    def accept_old_name(cls, values: Any) -> Any:
        """Accepts `heard_s`, as pages of the last release that a browser kept still send it."""
        if isinstance(values, dict) and "heard_s" in values and "listened_s" not in values:
            return {("listened_s" if k == "heard_s" else k): v for k, v in values.items()}
        return values


class RoundOut(BaseModel):
    """A round as the page needs it; to each clip's address the page adds .ogg or .m4a."""

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


REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorOut} for code in (401, 403, 404, 409, 422, 429)
}


def to_round_out(round_: Round) -> RoundOut:
    """The round as it is sent: its clips by their random addresses, not by their tracks."""
    clips = [f"/clip/{round_.clips_token}/{place}" for place in range(3)]
    return RoundOut(token=round_.token, clips=clips)
