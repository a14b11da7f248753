"""What an owner can configure: one dataclass, read from YAML, with an error for every bad value.

pydantic checks keys and types, as it does for the web application's requests. The reader of
`datasets_scripts.config` needs PyTorch, through `student`, and the survey runs without PyTorch.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")


class SurveyError(Exception):
    """A mistake that the owner can correct; the message says what was given and expected."""


@dataclass(frozen=True, config=STRICT)
class Shares:
    """Shares of the rounds, by kind; they must sum to 1.

    active: training rounds, of the triplets that the model is most uncertain about (drawn
        uniformly, as kind `random_train`, while there is no table of embeddings);
    random: the unbiased test stream; repeat: an earlier round of the same rater again;
    gold: rounds with a known answer.
    """

    active: StrictFloat = 0.60
    random: StrictFloat = 0.30
    repeat: StrictFloat = 0.05
    gold: StrictFloat = 0.05


@dataclass(frozen=True, config=STRICT)
class RatersPerTriplet:
    """How many raters answer each triplet of a stream; agreement needs at least 2."""

    active: StrictInt = 2
    random: StrictInt = 3


@dataclass(frozen=True, config=STRICT)
class Limits:
    """Rate limits in requests per minute: token buckets that hold as many as one minute allows.

    pages_per_rater counts pages and API calls of one rater, answers_per_rater the answers sent,
    per_address everything from one address (a school or an office may share one),
    new_raters_per_address consents, and owner_logins attempts to log in as the owner.
    """

    pages_per_rater: StrictInt = 240
    answers_per_rater: StrictInt = 60
    per_address: StrictInt = 3000
    new_raters_per_address: StrictInt = 30
    owner_logins: StrictInt = 10


@dataclass(frozen=True, config=STRICT)
class SurveyConfig:
    """The whole configuration; the YAML file may omit every field.

    clip_s: length of a clip in seconds, 10 to 20; loudness_lufs: integrated loudness of every
    clip (EBU R128), with its true peaks limited; gold_tracks: how many tracks get a second excerpt
    for gold rounds; min_listened_s: seconds for which each clip must play before an answer counts;
    repeat_after: answers between a round and its repeat; goal: answers in a set, which ends with a
    break; round_expires_h: hours after which an unanswered round is given to another rater;
    temperature: of the odd-one-out softmax over minus half the squared distances; public_url: the
    address by which raters reach the survey, where https makes cookies Secure and sends HSTS;
    trusted_proxy: addresses, with commas, of proxies whose X-Forwarded-For is used; proxy_hops:
    instead, how many proxies stand before the survey, where their addresses are not known;
    invite_codes: code to group of raters, where only those with a code may begin.
    """

    title: StrictStr = "Which song is the odd one out?"
    contact: StrictStr = ""
    shares: Shares = field(default_factory=Shares)
    raters_per_triplet: RatersPerTriplet = field(default_factory=RatersPerTriplet)
    limits: Limits = field(default_factory=Limits)
    clip_s: StrictFloat = 15.0
    loudness_lufs: StrictFloat = -16.0
    gold_tracks: StrictInt = 50
    min_listened_s: StrictFloat = 3.0
    repeat_after: StrictInt = 8
    goal: StrictInt = 10
    round_expires_h: StrictFloat = 24.0
    temperature: StrictFloat = 0.1
    public_url: StrictStr = ""
    trusted_proxy: StrictStr = ""
    proxy_hops: StrictInt = 0
    invite_codes: dict[StrictStr, StrictStr] = field(default_factory=dict)

    @property
    def secure(self) -> bool:
        """Whether raters connect by TLS, according to `public_url`."""
        return self.public_url.startswith("https://")


def load_config(path: Path | None) -> SurveyConfig:
    """The configuration in the YAML file `path` (defaults where None).

    Raises SurveyError for an unknown key, a wrong type, or a value out of range; the message names
    the file, the key, what was found and what was expected.
    """
    if path is None:
        return check(SurveyConfig())
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SurveyError(f"cannot read the configuration {path}: {error}") from error
    values = _with_new_keys(values)
    try:
        config = TypeAdapter(SurveyConfig).validate_python({} if values is None else values)
    except ValidationError as error:
        raise SurveyError(f"{path}: {_explain(error)}") from error
    return check(config)


RENAMED_KEYS = {"min_heard_s": "min_listened_s"}  # read for one release


def _with_new_keys(values: Any) -> Any:
    """The values with keys of the last release under their new names; others are unchanged."""
    if not isinstance(values, dict):
        return values
    # A file with both names of a key keeps the old one, which is then an unknown key.
    old = {key: new for key, new in RENAMED_KEYS.items() if new not in values}
    values = {old.get(key, key): value for key, value in values.items()}
    if values.get("trusted_proxy") == "*" and "proxy_hops" not in values:
        print(
            "trusted_proxy: '*' is not used, because a visitor could choose the address by which "
            "limits are counted; one proxy is believed instead: set proxy_hops: 1",
            file=sys.stderr,
        )
        values |= {"trusted_proxy": "", "proxy_hops": 1}
    return values


def as_yaml(config: SurveyConfig) -> str:
    """The configuration as the YAML that `load_config` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def _explain(error: ValidationError) -> str:
    """The first of pydantic's errors: the key, what is wrong with it, and the keys that exist."""
    first = error.errors()[0]
    *parents, key = map(str, first["loc"] or ("the file",))
    if first["type"] in ("unexpected_keyword_argument", "invalid_key"):
        of: Any = SurveyConfig()
        for parent in parents:
            of = getattr(of, parent)
        known = ", ".join(f.name for f in fields(of))
        return ": ".join([*parents, f"unknown key {key!r}; known keys: {known}"])
    if first["type"] == "dataclass_type":
        return f"{key}: expected keys and values, found {first['input']!r}"
    wanted = first["msg"].removeprefix("Input should be ")
    return f"{'.'.join([*parents, key])} must be {wanted}, found {first['input']!r}"


def check(config: SurveyConfig) -> SurveyConfig:
    """Returns `config`; raises SurveyError for the first value that is out of range."""
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
            0 <= config.min_listened_s <= config.clip_s,
            f"min_listened_s must be 0 to clip_s, found {config.min_listened_s}",
        ),
        (config.repeat_after >= 1, f"repeat_after must be at least 1: {config.repeat_after}"),
        (config.goal >= 1, f"goal must be at least 1, found {config.goal}"),
        (config.round_expires_h > 0, f"round_expires_h must be above 0: {config.round_expires_h}"),
        (
            "*" not in config.trusted_proxy,
            "trusted_proxy must name addresses: with * a visitor could choose the address by which "
            "limits are counted; set proxy_hops to the number of proxies instead",
        ),
        (0 <= config.proxy_hops <= 10, f"proxy_hops must be 0 to 10, found {config.proxy_hops}"),
        (
            not (config.proxy_hops and config.trusted_proxy),
            "set trusted_proxy or proxy_hops, not both",
        ),
        (
            all(4 <= len(c) <= 40 and len(g) <= 40 for c, g in config.invite_codes.items()),
            "an invite code has 4 to 40 characters, and its group at most 40",
        ),
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
