"""The banner: what a person reads first, and the line that others wait for."""

from __future__ import annotations

import re

from realtime.cli.banner import DRAWN, STOCK, banner, broker, clients, facts, paths, stickiness, workers
from realtime.settings import Settings
from tests.support.server import ADDRESS_LINE

SECRET = "0123456789abcdef"


def said(settings: Settings) -> dict[str, str]:
    return {name: value for name, value, _ in facts(settings)}


def test_it_opens_with_every_address_in_the_form_that_is_waited_for() -> None:
    text = banner(Settings(), ["http://127.0.0.1:8000", "unix:/run/x"], pid=7, coloured=False)
    assert text.splitlines()[1:3] == ["= listening on http://127.0.0.1:8000", "= listening on unix:/run/x"]
    found = ADDRESS_LINE.search(text)
    assert found is not None
    assert found["url"] == "http://127.0.0.1:8000"


def test_its_values_stand_in_one_column_and_colours_change_no_word() -> None:
    plain = banner(Settings(target="app:app", workers=2), ["http://[::1]:1"], pid=7, coloured=False)
    values = plain.splitlines()[2:]
    assert values
    assert {re.match(r"  \w+ +", line).end() for line in values} == {15}  # type: ignore[union-attr]
    coloured = banner(Settings(target="app:app", workers=2), ["http://[::1]:1"], pid=7, coloured=True)
    assert coloured != plain
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_the_stock_application_is_a_warning() -> None:
    [application] = [fact for fact in facts(Settings()) if fact[0] == "application"]
    assert application == ("application", STOCK, True)
    assert said(Settings(target="app:app"))["application"] == "app:app"


def test_it_says_whether_the_secret_outlives_the_primary() -> None:
    assert said(Settings())["secret"] == DRAWN
    assert said(Settings(secret=SECRET, sources={"secret": "REALTIME_SECRET"}))["secret"] == "set (REALTIME_SECRET)"
    assert "secret" not in said(Settings(sticky="none"))
    sources = {"secret": "REALTIME_SECRET", "secret_previous": "REALTIME_SECRET_PREVIOUS"}
    both = said(Settings(secret=SECRET, secret_previous="p" * 32, sources=sources))["secret"]
    assert both == "set (REALTIME_SECRET); the previous one too (REALTIME_SECRET_PREVIOUS)"


def test_it_says_what_is_hashed() -> None:
    assert stickiness(Settings()) == "ip, the client's address (the connection's; IPv6 by /64)"
    assert "X-Forwarded-For or Forwarded from 10.0.0.0/8" in stickiness(Settings(trusted_proxies=("10.0.0.0/8",)))
    behind = Settings(trusted_proxies=("10.0.0.1/32",), proxy_protocol=True)
    assert "PROXY protocol from 10.0.0.1/32" in stickiness(behind)
    assert stickiness(Settings(sticky="session")) == "session, from cookie rt_session"
    by_all = Settings(sticky="session", session_param="sid", session_header="x-sid")
    assert stickiness(by_all) == "session, from header x-sid, query parameter sid, cookie rt_session"
    assert stickiness(Settings(sticky="none")).endswith("the worker with the fewest connections")


def test_it_names_the_broker_but_never_its_password() -> None:
    assert broker(Settings(redis="redis://:hunter2@db:6379/1")) == "Redis at redis://***@db:6379/1"
    assert broker(Settings(workers=1)) == broker(Settings(workers=4)), "a single worker's rooms outlive it too"
    assert broker(Settings(workers=2)).startswith("local")


def test_it_says_which_clients_may_connect() -> None:
    assert clients(Settings()).startswith("all may connect: no key verifies tokens (--token-hmac-secret, ")
    signed = Settings(token_hmac_secret=SECRET * 2)
    assert clients(signed) == "with a token that the HMAC secret verifies; no client without a token"
    several = Settings(
        token_public_key="key.pem",
        token_jwks_url="https://user:hunter2@id.example/keys",
        token_audience="chat",
        token_issuer="https://id.example",
        anonymous=True,
    )
    assert clients(several) == (
        "with a token that the public key key.pem or the keys at https://***@id.example/keys verifies,"
        " audience chat and issuer https://id.example; and all without a token (--anonymous)"
    )
    assert said(signed)["clients"] == clients(signed)


def test_it_says_which_pages_may_connect_and_warns_of_all() -> None:
    def origins(*allowed: str) -> tuple[str, bool]:
        [found] = [
            (value, warns) for name, value, warns in facts(Settings(allowed_origins=allowed)) if name == "origins"
        ]
        return found

    assert origins() == ("pages of the host that they connect to may connect", False)
    assert origins("https://a.example", "null") == ("pages of https://a.example, null may connect", False)
    assert origins("https://a.example", "*") == ("pages of any origin may connect", True)


def test_it_says_when_nobody_chose_the_number_of_workers() -> None:
    assert workers(Settings(workers=3, sources={"workers": "--workers"})) == "3"
    assert workers(Settings(workers=3)) == "3 (one for each processor)"


def test_it_says_which_paths_are_the_servers() -> None:
    assert "/socket.io/" not in paths(Settings(socketio="off"))
    assert (
        paths(Settings())
        == "the server's: /connection/*, /emulation, /livez, /readyz, /health, /realtime.js, /socket.io/"
    )
    assert paths(Settings(target="app:app", api_key=SECRET)) == (
        "the server's: /connection/*, /emulation, /livez, /readyz, /api, /health, /realtime.js, /socket.io/;"
        " at /api, /health, /realtime.js, /socket.io/ a bare ASGI application comes first (--own-prefix)"
    )
    moved = Settings(target="app:app", own_prefix="/rt")
    assert paths(moved) == "the server's are all below /rt; others are the application's"
    assert said(moved)["paths"] == paths(moved)
