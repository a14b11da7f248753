"""Sessions without a table: signed cookies, CSRF tokens and private links."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from fastapi import Request, Response
from itsdangerous import BadSignature, URLSafeSerializer, URLSafeTimedSerializer

SESSION_S = 180 * 24 * 3600
OWNER_S = 12 * 3600


@dataclass(frozen=True)
class Session:
    """The content of the signed cookie: a nonce, from which CSRF tokens derive, and the rater."""

    nonce: str
    rater: str | None


class Sessions:
    """Signs and reads cookies, CSRF tokens and private links with the survey's secret.

    secure: raters connect by TLS, so the cookies are Secure and have the __Host- prefix.
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
        """The CSRF token in every form of this session."""
        return hmac.new(self._secret, b"csrf " + session.nonce.encode(), "sha256").hexdigest()

    def csrf_holds(self, session: Session | None, token: str) -> bool:
        """Whether `token` is the CSRF token of this session."""
        return session is not None and hmac.compare_digest(
            self.csrf(session).encode(), token.encode()
        )

    def link(self, rater: str) -> str:
        """The signed end of a rater's private link; it is computed, not stored."""
        return str(self._links.dumps(rater))

    def rater_of_link(self, token: str) -> str | None:
        """The name of the rater of a private link; None when its signature is wrong."""
        try:
            return str(self._links.loads(token))
        except BadSignature:
            return None

    def write_owner(self, response: Response, owner_token: str) -> None:
        """Logs the owner in for OWNER_S seconds, or until the owner's token changes."""
        value = str(self._owner.dumps(self._mark(owner_token)))
        self._set(response, self.owner_cookie, value, OWNER_S, "strict")

    def is_owner(self, request: Request, owner_token: str) -> bool:
        """Whether this visitor has logged in with the owner's token."""
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
