"""What stands between the pages and the world: cookies, CSRF, headers, and rate limits."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from dataclasses import dataclass

from fastapi import Request, Response
from itsdangerous import BadSignature, URLSafeSerializer, URLSafeTimedSerializer
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES = 16_384  # the largest form is far smaller
SESSION_S = 180 * 24 * 3600
OWNER_S = 12 * 3600
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "media-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class TooMany(Exception):
    """Over a rate limit; `wait_s` is when to come back, in seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many requests; try again in {wait_s:.0f} s")
        self.wait_s = wait_s


class RateLimiter:
    """Token buckets of this process: each key may do `per_minute` a minute, in one go or spread.

    Buckets that are full again are forgotten, so memory follows the keys of the last minute.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], tuple[float, float, int]] = {}
        self._swept = time.monotonic()

    def take(self, what: str, key: str, per_minute: int) -> None:
        """Takes one token from the bucket of `key` for `what`; raises TooMany when it is empty."""
        moment = time.monotonic()
        rate = per_minute / 60
        with self._lock:
            if moment - self._swept > 60:
                self._swept = moment
                self._buckets = {
                    k: b for k, b in self._buckets.items() if moment - b[1] < 60 * (1 - b[0] / b[2])
                }
            level, since, _ = self._buckets.get((what, key), (float(per_minute), moment, 0))
            level = min(per_minute, level + (moment - since) * rate)
            if level < 1:
                raise TooMany((1 - level) / rate)
            self._buckets[what, key] = (level - 1, moment, per_minute)


def address_of(scope: Scope) -> str:
    """The peer's address; of an IPv6 one its /64, which one household or host has to itself.

    Behind a proxy, uvicorn has put the forwarded address here, if the proxy is trusted.
    """
    host = (scope.get("client") or ("unknown",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


@dataclass(frozen=True)
class Session:
    """What the signed cookie holds: a nonce that CSRF tokens hang on, and who the rater is."""

    nonce: str
    rater: str | None


class Sessions:
    """Signs and reads cookies, CSRF tokens and private links with the survey's secret.

    secure: raters come over TLS, so the cookies carry Secure and the __Host- prefix.
    """

    def __init__(self, secret: str, secure: bool) -> None:
        self._secret = secret.encode()
        self.secure = secure
        self.cookie = "__Host-survey" if secure else "survey"
        self.owner_cookie = "__Host-survey-owner" if secure else "survey-owner"
        digest = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        self._timed = URLSafeTimedSerializer(secret, salt="session", signer_kwargs=digest)
        self._owner = URLSafeTimedSerializer(secret, salt="owner", signer_kwargs=digest)
        self._links = URLSafeSerializer(secret, salt="link", signer_kwargs=digest)

    def read(self, request: Request) -> Session | None:
        """The visitor's session; None without a cookie, or with one that is forged or too old."""
        try:
            value = self._timed.loads(request.cookies.get(self.cookie, ""), max_age=SESSION_S)
        except BadSignature:
            return None
        return Session(value["n"], value["r"])

    def write(self, response: Response, rater: str | None) -> Session:
        """Starts a session with a fresh nonce, and sets its cookie on the response."""
        session = Session(secrets.token_urlsafe(16), rater)
        value = self._timed.dumps({"n": session.nonce, "r": session.rater})
        self._set(response, self.cookie, str(value), SESSION_S, "lax")
        return session

    def forget(self, response: Response) -> None:
        """Removes the session's cookie."""
        response.delete_cookie(self.cookie, path="/", secure=self.secure, httponly=True)

    def csrf(self, session: Session) -> str:
        """The token that every form of this session carries."""
        return hmac.new(self._secret, b"csrf " + session.nonce.encode(), "sha256").hexdigest()

    def csrf_holds(self, session: Session | None, token: str) -> bool:
        """Whether `token` is the one of this session."""
        return session is not None and hmac.compare_digest(
            self.csrf(session).encode(), token.encode()
        )

    def link(self, rater: str) -> str:
        """The secret end of a rater's private link; it can be shown again, and is not stored."""
        return str(self._links.dumps(rater))

    def rater_of_link(self, token: str) -> str | None:
        """Whose private link this is; None when it was not made here."""
        try:
            return str(self._links.loads(token))
        except BadSignature:
            return None

    def write_owner(self, response: Response, owner_token: str) -> None:
        """Lets the owner in for OWNER_S seconds; a new owner token ends it."""
        value = str(self._owner.dumps(self._mark(owner_token)))
        self._set(response, self.owner_cookie, value, OWNER_S, "strict")

    def is_owner(self, request: Request, owner_token: str) -> bool:
        """Whether this visitor gave the owner's token."""
        try:
            value = self._owner.loads(request.cookies.get(self.owner_cookie, ""), max_age=OWNER_S)
        except BadSignature:
            return False
        return hmac.compare_digest(str(value), self._mark(owner_token))

    def _mark(self, owner_token: str) -> str:
        return hmac.new(self._secret, b"owner " + owner_token.encode(), "sha256").hexdigest()

    def _set(self, response: Response, name: str, value: str, age_s: int, same_site: str) -> None:
        response.set_cookie(
            name,
            value,
            max_age=age_s,
            path="/",
            secure=self.secure,
            httponly=True,
            samesite="strict" if same_site == "strict" else "lax",
        )


class Guard:
    """ASGI middleware: the rate limit by address, the limit on bodies, and the headers.

    health checks are not counted, so that a busy survey does not look like a dead one.
    """

    def __init__(self, app: ASGIApp, limiter: RateLimiter, per_address: int, secure: bool) -> None:
        self.app = app
        self.limiter = limiter
        self.per_address = per_address
        self.secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message))
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {k.lower(): v for k, v in scope["headers"]}
        if scope["path"] != "/healthz":
            try:
                self.limiter.take("address", address_of(scope), self.per_address)
            except TooMany as error:
                return too_many(error)
        if b"transfer-encoding" in headers:
            return plain(411, "a request needs a Content-Length")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_BYTES:
            return plain(413, f"a request may hold {BODY_BYTES} bytes")
        return None

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["Content-Security-Policy"] = POLICY
        headers["X-Content-Type-Options"] = "nosniff"
        headers["X-Frame-Options"] = "DENY"
        headers["Referrer-Policy"] = "same-origin"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
        headers["X-Robots-Tag"] = "noindex"
        if "cache-control" not in headers:
            headers["Cache-Control"] = "no-store"
        if self.secure:
            headers["Strict-Transport-Security"] = "max-age=31536000"


def plain(status: int, text: str) -> Response:
    """A bare answer to a request that no page should be made for."""
    return Response(text + "\n", status, media_type="text/plain")


def too_many(error: TooMany) -> Response:
    """429, with the seconds to wait."""
    response = plain(429, str(error))
    response.headers["Retry-After"] = str(int(error.wait_s) + 1)
    return response
