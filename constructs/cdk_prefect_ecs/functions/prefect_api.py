"""A small client of Prefect's REST API, whose errors say what to do.

Tried with Prefect 3.8.8; the routes are those of ``prefect/server/api``. Every call ends at the deadline at
the latest, and nothing here ever writes the credential into a message.
"""

import base64
import contextlib
import email.utils
import http.client
import json
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any, NoReturn

_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 5.0
_SHOWN_CHARACTERS = 600


class PrefectApiError(Exception):
    """The Prefect API could not be reached, refused a request, or is not a Prefect API.

    :ivar status: The HTTP status, or None when there was no answer.
    :ivar detail: What the server itself said, shortened; empty when it said nothing.
    """

    def __init__(self, message: str, *, status: int | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class _TemporaryError(Exception):
    """A failure that may pass: no connection, 429 or 5xx."""

    def __init__(self, error: PrefectApiError, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the credential elsewhere, so it is an error that names the new address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class PrefectApiClient:
    """Call one Prefect API, self-hosted or Cloud.

    Failures to connect, 429 and 5xx are repeated with back-off until the deadline, honouring ``Retry-After``;
    a request may therefore reach the server twice. Other errors are raised at once. Redirects are not
    followed. ``HTTPS_PROXY`` and its relatives are honoured as urllib does.

    :param url: The API's address, e.g. ``https://prefect.internal/api`` or
        ``https://api.prefect.cloud/api/accounts/ACCOUNT/workspaces/WORKSPACE``.
    :param authorization_header: The value of the ``Authorization`` header. None: requests are not
        authenticated.
    :param timeout_seconds: The longest wait for one answer.
    :param deadline: When to give up, in the time of ``time.monotonic()``.
    :param credential_source: Where the credential came from, for messages, e.g. "SSM parameter
        '/prefect/api-key'".
    :raises PrefectApiError: when the URL is not an http(s) address, or carries a user name.
    """

    def __init__(
        self,
        url: str,
        authorization_header: str | None,
        *,
        timeout_seconds: float = 10.0,
        deadline: float,
        credential_source: str | None = None,
    ) -> None:
        self.url: str = _checked_url(url)
        self.deadline = deadline
        self.timeout_seconds = timeout_seconds
        self.credential_source: str = credential_source or "the configured credential"
        self._authorization_header = authorization_header
        self._secrets = _secrets_in(authorization_header)
        self._csrf_headers: dict[str, str] = {}
        self._opener = urllib.request.build_opener(_NoRedirects())
        host = urllib.parse.urlsplit(self.url).hostname or ""
        self.is_cloud: bool = host == "prefect.cloud" or host.endswith(".prefect.cloud")

    def __repr__(self) -> str:
        return f"PrefectApiClient({self.url!r})"

    def with_deadline(self, deadline: float) -> "PrefectApiClient":
        """Return a client of the same API that gives up at another time."""
        client = PrefectApiClient(
            self.url,
            self._authorization_header,
            timeout_seconds=self.timeout_seconds,
            deadline=deadline,
            credential_source=self.credential_source,
        )
        client._csrf_headers = self._csrf_headers
        return client

    def get(self, path: str) -> Any:
        """Return what is at a path of the API."""
        return self._request("GET", path, None)

    def post(self, path: str, body: Any = None) -> Any:
        """Create, filter or act, and return the answer."""
        return self._request("POST", path, body)

    def patch(self, path: str, body: Any = None) -> Any:
        """Change some fields, and return the answer."""
        return self._request("PATCH", path, body)

    def delete(self, path: str, body: Any = None) -> Any:
        """Delete what is at a path, and return the answer."""
        return self._request("DELETE", path, body)

    def server_version(self) -> str:
        """Check that a Prefect API answers here and accepts the credential; return its version.

        Prefect Cloud publishes no version: the answer is then "Prefect Cloud".
        """
        try:
            if self.is_cloud:
                self.post("/work_pools/filter", {"limit": 1})
                return "Prefect Cloud"
            version = self.get("/admin/version")
        except PrefectApiError as error:
            if error.status in (404, 405):
                asked = "POST /work_pools/filter" if self.is_cloud else "GET /admin/version"
                problem = self._not_an_api(f"{asked} answered {error.status}")
                raise PrefectApiError(problem, status=error.status) from None
            raise
        if not isinstance(version, str):
            raise PrefectApiError(self._not_an_api("GET /admin/version answered no version"))
        return version

    # -- one request -----------------------------------------------------------------------------------------

    def _request(self, method: str, path: str, body: Any) -> Any:
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                return self._attempt(method, path, body)
            except _TemporaryError as failure:
                wait = max(delay, failure.retry_after or 0.0)
                if time.monotonic() + wait >= self.deadline:
                    raise failure.error from None
            time.sleep(wait)
            delay = min(delay * 2, _LONGEST_DELAY_SECONDS)

    def _attempt(self, method: str, path: str, body: Any, *, with_fresh_csrf_token: bool = False) -> Any:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise PrefectApiError(f"no time was left for {method} {path} at the Prefect API at {self.url}")
        headers = {"Accept": "application/json", "User-Agent": "cdk-prefect-ecs"}
        if self._authorization_header is not None:
            headers["Authorization"] = self._authorization_header
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if method != "GET":
            headers.update(self._csrf_headers)
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.url + path, data=data, headers=headers, method=method
        )
        try:
            status, answer_headers, raw = self._exchange(request, min(self.timeout_seconds, remaining))
        except (OSError, http.client.HTTPException) as error:
            self._raise_unreachable(error)
        text = raw.decode("utf-8", "replace")
        if status == 403 and method != "GET" and "CSRF" in text and not with_fresh_csrf_token:
            self._fetch_csrf_token()
            return self._attempt(method, path, body, with_fresh_csrf_token=True)
        if not 200 <= status < 300:
            self._raise_for_status(method, path, status, answer_headers, text)
        return self._parsed(method, path, status, answer_headers, text)

    def _exchange(self, request: urllib.request.Request, timeout: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        try:
            response: Any = self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            chunks = []
            # The time-out is one of the socket: a server that sends a byte now and then would never meet it.
            while chunk := response.read1(65536):
                chunks.append(chunk)
                if time.monotonic() > self.deadline:
                    raise TimeoutError
            if getattr(response, "length", None):
                raise http.client.IncompleteRead(b"", response.length)
            return response.status, response.headers, b"".join(chunks)

    def _fetch_csrf_token(self) -> None:
        """A server with PREFECT_SERVER_CSRF_PROTECTION_ENABLED wants a token with everything but GET."""
        client_id = str(uuid.uuid4())
        answer = self._attempt("GET", f"/csrf-token?client={client_id}", None)
        self._csrf_headers = {"Prefect-Csrf-Client": client_id, "Prefect-Csrf-Token": str(answer["token"])}

    def _parsed(self, method: str, path: str, status: int, headers: http.client.HTTPMessage, text: str) -> Any:
        if not text.strip():
            return None
        try:
            return json.loads(text)
        except ValueError:
            kind = headers.get_content_type()
            problem = f"{method} {path} answered {kind} that is not JSON"
            raise PrefectApiError(self._not_an_api(problem), status=status) from None

    # -- errors in sentences ---------------------------------------------------------------------------------

    def _raise_for_status(
        self, method: str, path: str, status: int, headers: http.client.HTTPMessage, text: str
    ) -> NoReturn:
        detail = self.scrubbed(_detail(text))
        said = f": {detail}" if detail else ""
        api = f"the Prefect API at {self.url}"
        if status == 429 or status >= 500:
            problem = "asked for fewer requests" if status == 429 else "failed"
            error = PrefectApiError(
                f"{api} {problem} at {method} {path} ({status}){said}", status=status, detail=detail
            )
            raise _TemporaryError(error, _retry_after(headers.get("Retry-After")))
        if status in (401, 403) and self._authorization_header is None:
            message = (
                f"{api} wants a credential ({status}) and none is configured: name the parameter or secret that has it"
            )
        elif status == 401:
            message = (
                f"{api} rejected the credential read from {self.credential_source} (401). "
                "Check that it belongs to this API, has not expired, and is stored without quotes"
            )
        elif status == 403:
            message = (
                f"{api} refused {method} {path} (403){said}. "
                f"Check what the owner of the credential read from {self.credential_source} may do there"
            )
        elif 300 <= status < 400:
            target = urllib.parse.urlsplit(headers.get("Location", ""))
            address = f"{target.scheme}://{target.netloc}{target.path}" if target.netloc else target.path
            message = (
                f"{api} redirects {method} {path} to {address or 'nowhere'} ({status}), and credentials are "
                "not sent to another address: configure the final one"
            )
        else:
            message = f"{api} answered {status} to {method} {path}{said}"
        raise PrefectApiError(self.scrubbed(message), status=status, detail=detail)

    def _raise_unreachable(self, error: Exception) -> NoReturn:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        split = urllib.parse.urlsplit(self.url)
        where = f"cannot reach the Prefect API at {self.url}: "
        path_hint = "" if self.is_cloud else " Is the URL right, ending in /api?"
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise PrefectApiError(f"{where}its certificate is not trusted ({reason.verify_message})")
        if isinstance(reason, ssl.SSLError):
            raise PrefectApiError(f"{where}no TLS there ({reason.reason}). Is it http:// rather than https://?")
        if isinstance(reason, http.client.BadStatusLine) and not isinstance(reason, ConnectionError):
            raise PrefectApiError(f"{where}what answers there does not speak HTTP. Is it https:// rather than http://?")
        if isinstance(reason, socket.gaierror):
            problem = (
                f"the host name {split.hostname!r} is not known. Check its spelling; a private name "
                "resolves only inside its VPC: is the function there?"
            )
        elif isinstance(reason, ConnectionRefusedError):
            problem = (
                "connection refused. Check that the server runs and listens on this port: is the function "
                f"in the VPC of a private server?{path_hint}"
            )
        elif isinstance(reason, TimeoutError):
            problem = (
                f"no answer within {self.timeout_seconds:g} s. Check that the function has a route to it "
                "(the VPC of a private server, NAT to a public one) and that its security group admits the "
                "function"
            )
        elif isinstance(reason, (ConnectionError, http.client.HTTPException)):
            problem = "the connection was closed before an answer came. Check the server's log"
        else:
            problem = f"{self.scrubbed(str(reason)) or type(reason).__name__}. Check the network of the function"
        raise _TemporaryError(PrefectApiError(where + problem))

    def _not_an_api(self, problem: str) -> str:
        if self.is_cloud:
            return (
                f"{self.url} is not a workspace of Prefect Cloud ({problem}). Check the account id and the "
                "workspace id in https://api.prefect.cloud/api/accounts/ACCOUNT/workspaces/WORKSPACE"
            )
        return f"{self.url} is not a Prefect API ({problem}). Self-hosted URLs end in /api"

    def scrubbed(self, text: str) -> str:
        """The text without the credential, in whichever spelling a server or a program may repeat it."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _checked_url(url: str) -> str:
    # The value is shown only when it cannot hold a password.
    if "@" in url:
        raise PrefectApiError(
            "the URL of the Prefect API must not carry a user name or password: store it as the credential"
        )
    try:
        split = urllib.parse.urlsplit(url)
        valid = split.scheme in ("http", "https") and bool(split.hostname) and (split.port is None or split.port > 0)
    except ValueError:
        valid = False
    if not valid or split.query or split.fragment or any(c.isspace() for c in url):
        raise PrefectApiError(
            f"not the URL of a Prefect API: {url!r}. It looks like http://HOST:4200/api or https://HOST/api"
        )
    return url.rstrip("/")


def _secrets_in(authorization_header: str | None) -> list[str]:
    """The spellings of the credential that a server might send back."""
    if authorization_header is None:
        return []
    scheme, _, token = authorization_header.partition(" ")
    secrets = [token]
    if scheme == "Basic":
        with contextlib.suppress(ValueError):
            decoded = base64.b64decode(token).decode()
            secrets += [decoded, decoded.partition(":")[2]]
    # A very short one would blank out innocent words, and protects nothing.
    return [secret for secret in secrets if len(secret) >= 4]


def _detail(text: str) -> str:
    """What the server said about an error, without the request that some of its answers repeat."""
    try:
        answer = json.loads(text)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    problems = answer.get("exception_detail") or answer.get("detail") or answer.get("exception_message") or ""
    if isinstance(problems, list):
        sentences = []
        for problem in problems:
            if isinstance(problem, dict):
                place = ".".join(str(part) for part in problem.get("loc", ()) if part != "body")
                sentence = str(problem.get("msg", "invalid")).removeprefix("Value error, ")
                sentences.append(f"{place}: {sentence}" if place else sentence)
            else:
                sentences.append(str(problem))
        problems = "; ".join(sentences)
    shown = " ".join(str(problems).split())
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 1] + "…"


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from either form of the header (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        return max(0.0, float(value)) if value.strip().isdigit() else _seconds_until(value)
    except (TypeError, ValueError):
        return None


def _seconds_until(date: str) -> float:
    return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
