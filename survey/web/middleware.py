"""The middleware before every request: rate limit by address, size limit, security headers."""

from __future__ import annotations

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from survey.web.limits import RateLimiter, RateLimitExceeded, address_of

CLIPS = ("/clip/", "/practice/")
HEAD = "survey.head"  # in the scope of a HEAD request, which is handled as a GET
MAX_BODY_BYTES = 16_384  # the largest form is far smaller
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "media-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class ForwardedHops:
    """ASGI middleware: the visitor's address and scheme as the configured number of proxies say.

    Every proxy appends the address of its peer to X-Forwarded-For, so that with n proxies the n-th
    entry from the end is the visitor's; what is before it, the visitor may have made up.
    """

    def __init__(self, app: ASGIApp, hops: int) -> None:
        self.app = app
        self.hops = hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            chain = [a.strip() for v in headers.getlist("x-forwarded-for") for a in v.split(",")]
            if len(chain) >= self.hops and chain[-self.hops]:
                scope = {**scope, "client": (chain[-self.hops], 0)}
            schemes = headers.get("x-forwarded-proto", "").split(",")
            if len(schemes) >= self.hops and schemes[-self.hops].strip() in ("http", "https"):
                scope = {**scope, "scheme": schemes[-self.hops].strip()}
        await self.app(scope, receive, send)


class Guard:
    """ASGI middleware: the rate limit by address, the limit on bodies, HEAD, and the headers.

    Health checks are not counted, so that they do not fail on a busy survey.
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

        is_clip = scope["path"].startswith(CLIPS)
        is_head = scope["method"] == "HEAD"

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                self._add_headers(headers)
                if is_clip:  # the same for a repeated clip, alike for two excerpts of one track
                    del headers["etag"], headers["last-modified"]
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        refusal = self._refusal(scope)
        if is_head:
            scope = {**scope, "method": "GET", HEAD: True}
        await (refusal or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {k.lower(): v for k, v in scope["headers"]}
        if scope["path"] != "/healthz":
            try:
                self.limiter.take("address", address_of(scope), self.per_address)
            except RateLimitExceeded as error:
                return too_many(error)
        if b"transfer-encoding" in headers:
            return plain(411, "a request needs a Content-Length")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return plain(413, f"a request may hold {MAX_BODY_BYTES} bytes")
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
    """A reply in plain text, without a page."""
    return Response(text + "\n", status, media_type="text/plain")


def too_many(error: RateLimitExceeded) -> Response:
    """429, with the seconds to wait in its header."""
    response = plain(429, str(error))
    response.headers["Retry-After"] = str(int(error.wait_s) + 1)
    return response
