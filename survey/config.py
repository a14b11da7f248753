"""What an owner can configure: one dataclass, read from YAML, with an error for every bad value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml


class SurveyError(Exception):
    """A mistake the owner can mend: the message says what was given, expected, and to do."""


@dataclass(frozen=True)
class Shares:
    """Shares of the rounds, by kind; they must sum to 1.

    active: training rounds, the least sure triplets of the model (drawn uniformly and marked
        `cold` while there is no table of embeddings); random: the unbiased test stream;
    repeat: one of the rater's own earlier rounds again; gold: rounds whose answer is plain.
    """

    active: float = 0.60
    random: float = 0.30
    repeat: float = 0.05
    gold: float = 0.05


@dataclass(frozen=True)
class RatersPerTriplet:
    """How many raters each triplet of a stream gets; agreement needs at least 2."""

    active: int = 2
    random: int = 3


@dataclass(frozen=True)
class Limits:
    """Rate limits: requests a minute, as token buckets that hold one minute's worth.

    pages_per_rater counts pages and API calls of one rater, answers_per_rater the answers sent,
    per_address everything from one address (a school or an office may share one),
    new_raters_per_address consents, and owner_logins tries of the owner's token.
    """

    pages_per_rater: int = 240
    answers_per_rater: int = 60
    per_address: int = 3000
    new_raters_per_address: int = 30
    owner_logins: int = 10


@dataclass(frozen=True)
class SurveyConfig:
    """The whole configuration; every field can be left out of the YAML file.

    clip_s: length of a clip in seconds, 10 to 20; loudness_lufs: integrated loudness of every
    clip (EBU R128); gold_tracks: how many tracks get a second excerpt for gold rounds;
    min_heard_s: seconds that each clip must be heard before an answer counts; repeat_after:
    answers between a round and its repeat; goal: answers at which the bar is full (and full
    again at every multiple); round_expires_h: hours after which a round that nobody answers is
    given to someone else; temperature: of the odd-one-out softmax over cosine similarities;
    public_url: where raters reach the survey; https makes cookies Secure and sends HSTS;
    trusted_proxy: addresses whose X-Forwarded-For is believed ("*" for all, "" for none).
    """

    title: str = "Which song is the odd one out?"
    contact: str = ""
    shares: Shares = field(default_factory=Shares)
    raters_per_triplet: RatersPerTriplet = field(default_factory=RatersPerTriplet)
    limits: Limits = field(default_factory=Limits)
    clip_s: float = 15.0
    loudness_lufs: float = -23.0
    gold_tracks: int = 50
    min_heard_s: float = 3.0
    repeat_after: int = 8
    goal: int = 100
    round_expires_h: float = 24.0
    temperature: float = 0.1
    public_url: str = ""
    trusted_proxy: str = ""

    @property
    def secure(self) -> bool:
        """True where raters come over TLS, as `public_url` says."""
        return self.public_url.startswith("https://")


def load_config(path: Path | None) -> SurveyConfig:
    """The configuration in the YAML file `path` (defaults where None).

    Raises SurveyError for an unknown key, a wrong type, or a value out of range.
    """
    if path is None:
        return check(SurveyConfig())
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SurveyError(f"cannot read the configuration {path}: {error}") from error
    return check(_build(SurveyConfig, {} if raw is None else raw, str(path)))


def as_yaml(config: SurveyConfig) -> str:
    """The configuration as the YAML that `load_config` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def _build(kind: type, raw: Any, where: str) -> Any:
    """An instance of the dataclass `kind` from a mapping, checking keys and types."""
    if not isinstance(raw, dict):
        raise SurveyError(f"{where}: expected keys and values, found {raw!r}")
    known = {f.name: getattr(kind(), f.name) for f in fields(kind)}
    if unknown := sorted(set(map(str, raw)) - set(known)):
        raise SurveyError(f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, value in raw.items():
        default = known[name]
        if isinstance(default, (Shares, RatersPerTriplet, Limits)):
            values[name] = _build(type(default), value, f"{where}: {name}")
            continue
        # A whole number is fine where a float is expected; True is never a number.
        wanted = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise SurveyError(f"{where}: {name} must be {wanted[-1].__name__}, found {value!r}")
        values[name] = float(value) if isinstance(default, float) else value
    return kind(**values)


def check(config: SurveyConfig) -> SurveyConfig:
    """`config` itself, or SurveyError for the first value that is out of range."""
    shares = asdict(config.shares)
    rules = [
        (all(0 <= s <= 1 for s in shares.values()), f"each share must be 0 to 1, found {shares}"),
        (
            abs(sum(shares.values()) - 1) < 1e-6,
            f"the shares must sum to 1, found {sum(shares.values()):.4g} from {shares}",
        ),
        (
            shares["active"] + shares["random"] > 0,
            "shares.active + shares.random must be above 0: repeats and gold need other rounds",
        ),
        (10 <= config.clip_s <= 20, f"clip_s must be 10 to 20 seconds, found {config.clip_s}"),
        (
            -40 <= config.loudness_lufs <= -14,
            f"loudness_lufs must be -40 to -14, found {config.loudness_lufs}",
        ),
        (config.gold_tracks >= 0, f"gold_tracks must not be negative: {config.gold_tracks}"),
        (
            0 <= config.min_heard_s <= config.clip_s,
            f"min_heard_s must be 0 to clip_s, found {config.min_heard_s}",
        ),
        (config.repeat_after >= 1, f"repeat_after must be at least 1: {config.repeat_after}"),
        (config.goal >= 1, f"goal must be at least 1, found {config.goal}"),
        (config.round_expires_h > 0, f"round_expires_h must be above 0: {config.round_expires_h}"),
        (config.temperature > 0, f"temperature must be above 0, found {config.temperature}"),
        (
            min(config.raters_per_triplet.active, config.raters_per_triplet.random) >= 1,
            "raters_per_triplet must be at least 1",
        ),
        (min(asdict(config.limits).values()) >= 1, "every rate limit must be at least 1 a minute"),
        (
            config.public_url == "" or config.public_url.startswith(("http://", "https://")),
            f"public_url must start with http:// or https://, found {config.public_url!r}",
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise SurveyError(f"configuration: {message}")
    return config
