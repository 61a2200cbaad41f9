"""Settings: where values come from, what a wrong one is told, what must hold between them."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from realtime.errors import SettingsError
from realtime.settings import Settings, misspelt, options, resolve, runtime_directory, without_password
from realtime.settings.__main__ import page
from realtime.settings.cpus import usable_cpus

SECRET = "0123456789abcdef" * 2


def refusal(**kwargs: object) -> str:
    """Give the sentence with which these sources are refused."""
    command_line = kwargs.pop("command_line", {})
    with pytest.raises(SettingsError) as caught:
        resolve(command_line, **{"environ": {}, **kwargs})  # type: ignore[arg-type]
    return str(caught.value)


def with_toml(directory: Path, text: str) -> Path:
    (directory / "realtime.toml").write_text(text)
    return directory


# Sources


def test_without_any_source_every_value_is_the_default(tmp_path: Path) -> None:
    settings = resolve({}, environ={}, directory=tmp_path)
    assert settings == Settings(directory=str(tmp_path))
    assert settings.sources == {}
    assert settings.source("ping_s") == "default"


def test_the_limits_are_those_of_the_design() -> None:
    limits = Settings()
    assert (limits.handshake_s, limits.head_bytes, limits.head_headers) == (10, 16 * 1024, 100)
    assert (limits.message_bytes, limits.outbound_bytes, limits.outbound_s) == (64 * 1024, 1024**2, 10)
    assert (limits.ping_s, limits.pong_s, limits.rooms_per_connection) == (25, 10, 128)
    assert (limits.drain_s, limits.heartbeat_s, limits.hung_s) == (60, 1, 6)


def test_the_command_line_goes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    with_toml(tmp_path, "ping = 21\npong = 1\nworkers = 5\n")
    environ = {"REALTIME_PING": "22", "REALTIME_PONG": "2"}
    settings = resolve({"ping_s": "23"}, environ=environ, directory=tmp_path)
    assert (settings.ping_s, settings.pong_s, settings.workers) == (23, 2, 5)
    assert settings.source("ping_s") == "--ping"
    assert settings.source("pong_s") == "REALTIME_PONG"
    assert settings.source("workers") == "realtime.toml line 3, workers"


def test_a_list_of_a_nearer_source_replaces_the_other_one(tmp_path: Path) -> None:
    with_toml(tmp_path, 'bind = ["127.0.0.1:1", "[::1]:2"]')
    assert resolve({}, environ={}, directory=tmp_path).bind == ("127.0.0.1:1", "[::1]:2")
    assert resolve({}, environ={"REALTIME_BIND": ":3, unix:/run/x"}, directory=tmp_path).bind == (":3", "unix:/run/x")
    assert resolve({"bind": (":4",)}, environ={"REALTIME_BIND": ":3"}, directory=tmp_path).bind == (":4",)


def test_the_file_may_hold_its_keys_under_realtime_and_with_dashes(tmp_path: Path) -> None:
    with_toml(tmp_path, '[realtime]\nsticky = "none"\ntrusted-proxies = "10.0.0.0/8,::1"\nanonymous = true\n')
    settings = resolve({}, environ={}, directory=tmp_path)
    assert (settings.sticky, settings.trusted_proxies, settings.anonymous) == ("none", ("10.0.0.0/8", "::1/128"), True)


def test_another_file_is_named_on_the_command_line_or_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "prod.toml").write_text("workers = 7")
    assert resolve({}, environ={}, directory=tmp_path, config="prod.toml").workers == 7
    assert resolve({}, environ={"REALTIME_CONFIG": "prod.toml"}, directory=tmp_path).workers == 7
    assert refusal(directory=tmp_path, config="no.toml") == "--config: there is no file 'no.toml'"


def test_how_workers_live_and_who_they_are(tmp_path: Path) -> None:
    with_toml(
        tmp_path,
        'env = ["GPU={slot}", "LIST=1,2"]\nmax_lifetime = "12h"\nmax_memory = "2GiB"\nmax_connections = 100000\n'
        'max_jitter = "25%"\nuser = "www-data"\numask = "027"',
    )
    settings = resolve({}, environ={}, directory=tmp_path)
    assert settings.env == ("GPU={slot}", "LIST=1,2")
    assert (settings.max_lifetime_s, settings.max_memory, settings.max_connections) == (43200.0, 2 * 1024**3, 100_000)
    assert (settings.max_jitter, settings.user, settings.umask) == (0.25, "www-data", 0o027)


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert resolve({}, environ={"REALTIME_REDIS": ""}, directory=tmp_path).redis is None


def test_a_secret_may_come_as_a_file_from_each_source(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    key = str(tmp_path / "key")
    assert resolve({"secret_file": key}, environ={}, directory=tmp_path).secret == SECRET
    assert resolve({}, environ={"REALTIME_SECRET_FILE": key}, directory=tmp_path).secret == SECRET
    with_toml(tmp_path, f'secret_file = "{key}"')
    assert resolve({}, environ={}, directory=tmp_path).secret == SECRET
    missing = refusal(directory=tmp_path, environ={"REALTIME_SECRET_FILE": "/nowhere/key"})
    assert missing == "REALTIME_SECRET_FILE: '/nowhere/key' cannot be read: No such file or directory"


def test_no_color_is_heard_and_an_explicit_choice_goes_before_it(tmp_path: Path) -> None:
    assert resolve({}, environ={"NO_COLOR": "1"}, directory=tmp_path).color == "never"
    assert resolve({"color": "always"}, environ={"NO_COLOR": "1"}, directory=tmp_path).color == "always"


# Wrong values, from each source

WHOLE = "a whole number from 1 to 512 or auto"
TIME = "a time from 100ms to 10m, such as 25, 25s, 500ms or 2m"
ADDRESS = "an address such as 127.0.0.1:8000, [::1]:8000, :8000, unix:/run/app.sock or fd://3"
REDIS = (
    "a URL such as redis://127.0.0.1:6379/0, rediss://…, unix:///run/redis.sock, "
    "redis+sentinel://HOST,HOST/SERVICE or redis+cluster://HOST,HOST"
)
REDIS_SCHEMES = "the scheme is redis, rediss or unix; or redis or rediss with +sentinel or +cluster"
NETWORK = "an address or a network such as 10.0.0.0/8 or fd00::/8"
ORIGIN = (
    "an origin such as https://example.org, https://*.example.org:8443, capacitor://localhost, moz-extension://*, "
    "file:// or null, or * for any"
)
SERVER = "an address such as https://chat.example.org or 127.0.0.1:8000"
OPENSSL = "`openssl rand -hex 32` makes a good one"

WRONG = [
    ("workers", "many", f"'many' is not {WHOLE}"),
    ("workers", "0", f"'0' is not {WHOLE}"),
    ("workers", "-1", f"'-1' is not {WHOLE}"),
    ("sticky", "cookie", "'cookie' is not one of ip, session, none"),
    ("balance", "random", "'random' is not one of least, round-robin"),
    ("proxy_protocol", "maybe", "'maybe' is not yes or no (true, false, on, off, 1, 0)"),
    ("ping_s", "soon", f"'soon' is not {TIME}"),
    ("ping_s", "nan", f"'nan' is not {TIME}"),
    ("head_bytes", "1GB", "'1GB' is not a size from 1KiB to 64KiB, such as 65536 or 64KiB"),
    ("secret", "short", f"the value is not a secret of at least 16 bytes (it has 5; {OPENSSL})"),
    ("token_hmac_secret", "x" * 31, f"the value is not a secret of at least 32 bytes (it has 31; {OPENSSL})"),
    ("redis", "http://db", f"'http://db' is not {REDIS} ({REDIS_SCHEMES})"),
    ("redis", "redis+ring://db", f"'redis+ring://db' is not {REDIS} ({REDIS_SCHEMES})"),
    ("redis", "redis+cluster://db,,", f"'redis+cluster://db,,' is not {REDIS} (it names no host)"),
    (
        "redis",
        "redis+sentinel://db:1,db:2",
        f"'redis+sentinel://db:1,db:2' is not {REDIS} (it names no service: redis+sentinel://HOST/SERVICE)",
    ),
    ("redis", "redis://", f"'redis://' is not {REDIS} (it names no host)"),
    ("bind", "8000", f"'8000' is not {ADDRESS}"),
    ("bind", "127.0.0.1:80000", f"'127.0.0.1:80000' is not {ADDRESS} (ports end at 65535)"),
    ("bind", "[zz]:1", f"'[zz]:1' is not {ADDRESS} (what stands in brackets is no IPv6 address)"),
    ("bind", "fd://1", f"'fd://1' is not {ADDRESS} (0, 1 and 2 are the standard streams)"),
    ("env", "{slot}", "'{slot}' is not a variable such as CUDA_VISIBLE_DEVICES={slot}"),
    ("umask", "099", "'099' is not mode bits in octal from 000 to 777, such as 027"),
    ("max_jitter", "110%", "'110%' is not a share from 0 to 1, such as 0.1 or 10%"),
    ("max_memory", "1", "'1' is not a size from 16MiB to 1024GiB, such as 65536 or 64KiB"),
    ("trusted_proxies", "10.0.0.0/8,proxy", f"'proxy' is not {NETWORK}"),
    (
        "trusted_proxies",
        "10.0.0.1/8",
        f"'10.0.0.1/8' is not {NETWORK} (it has bits set beyond its prefix; 10.0.0.0/8 is probably meant)",
    ),
    ("allowed_origins", "https://a.org/", f"'https://a.org/' is not {ORIGIN} (no path, no slash at the end)"),
    ("session_cookie", "a b", "'a b' is not a cookie's name"),
    ("log_format", "xml", "'xml' is not one of text, json"),
    ("url", "ftp://x", f"'ftp://x' is not {SERVER}"),
    ("url", "http://x:99999", f"'http://x:99999' is not {SERVER} (Port out of range 0-65535)"),
    ("url", "https://me:pw@x", f"'https://me:pw@x' is not {SERVER} (no user, no query)"),
]


@pytest.mark.parametrize(("name", "value", "problem"), WRONG)
def test_a_wrong_value_is_named_with_its_source_and_what_is_allowed(
    tmp_path: Path, name: str, value: str, problem: str
) -> None:
    option = next(option for option in options() if option.name == name)
    assert refusal(command_line={name: value}, directory=tmp_path) == f"{option.flag}: {problem}"
    assert refusal(environ={option.env: value}, directory=tmp_path) == f"{option.env}: {problem}"
    with_toml(tmp_path, f'# ours\n{option.key} = "{value}"\n')
    assert refusal(directory=tmp_path) == f"realtime.toml line 2, {option.key}: {problem}"


@pytest.mark.parametrize("value", ["true", "[1]", "1.5", "{ a = 1 }", "1979-05-27"])
def test_a_value_of_another_type_in_the_file_is_refused(tmp_path: Path, value: str) -> None:
    with_toml(tmp_path, f"workers = {value}")
    assert refusal(directory=tmp_path).startswith("realtime.toml line 1, workers: ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("wokers = 4", "realtime.toml line 1, wokers: there is no such setting; did you mean workers?"),
        ("[realtime]\n\nstikcy = 1", "realtime.toml line 3, stikcy: there is no such setting; did you mean sticky?"),
        ("zzz = 1", "realtime.toml line 1, zzz: there is no such setting"),
        ("[server]\nworkers = 4", "realtime.toml line 1, server: there is no such setting"),
        (
            "workers = 1\n[realtime]\nworkers = 2",
            "realtime.toml line 3, workers: it is set twice; first in realtime.toml line 1, workers",
        ),
        ("workers = ", "realtime.toml: is not TOML: Invalid value (at end of document)"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    assert refusal(directory=with_toml(tmp_path, text)) == sentence


def test_a_misspelt_variable_is_pointed_out_and_a_foreign_one_is_not() -> None:
    environ = {"REALTIME_WOKERS": "4", "REALTIME_REQUIRE": "redis", "REALTIME_PING": "3", "REALTIME_SECRET_FILE": "x"}
    assert misspelt(environ) == ["REALTIME_WOKERS is not a setting and was ignored; did you mean REALTIME_WORKERS?"]


def test_no_error_shows_a_secret(tmp_path: Path) -> None:
    assert "hunter2" not in refusal(environ={"REALTIME_SECRET": "hunter2"}, directory=tmp_path)
    settings = resolve({}, environ={"REALTIME_SECRET": SECRET}, directory=tmp_path)
    assert SECRET not in repr(settings)
    assert "secret=***" in repr(settings)


def test_what_must_never_be_shown_includes_the_password_of_redis() -> None:
    settings = Settings(secret=SECRET, redis="redis://user:pa%40ss@db")
    assert settings.secrets == (SECRET, "pa%40ss", "pa@ss")
    both = Settings(token_hmac_secret=SECRET, token_hmac_secret_previous="p" * 32, secret_previous="q" * 16)
    assert {SECRET, "p" * 32, "q" * 16} <= set(both.secrets)
    settings = Settings(redis="redis+sentinel://user:pa@a:1,b:2/rooms?sentinel_password=other%21")
    assert settings.secrets == ("pa", "pa", "other!")


# Relations

RELATIONS: list[tuple[dict[str, str], str]] = [
    ({"pong_s": "25"}, "--pong: pong (25s) must be shorter than ping (25s)"),
    ({"ping_s": "5"}, "--ping: pong (10s) must be shorter than ping (5s)"),
    ({"hung_s": "1.5"}, "--hung: hung (1.5s) must be at least twice heartbeat (1s), else healthy workers are killed"),
    (
        {"sticky": "session", "certfile": "a.pem", "keyfile": "b.pem"},
        "--sticky: sticky session cannot be combined with TLS that ends in the workers (the cookie is encrypted): "
        "end TLS in a proxy, or use sticky ip",
    ),
    (
        {"secret_previous": SECRET},
        "--secret-previous: secret_previous has no meaning without secret, which replaces it",
    ),
    (
        {"token_hmac_secret_previous": SECRET},
        "--token-hmac-secret-previous: token_hmac_secret_previous has no meaning without token_hmac_secret, "
        "which replaces it",
    ),
    ({"certfile": "a.pem"}, "--certfile: certfile needs keyfile beside it"),
    ({"keyfile": "a.pem"}, "--keyfile: keyfile needs certfile beside it"),
    (
        {"proxy_protocol": "yes"},
        "--proxy-protocol: proxy_protocol needs trusted_proxies: any other client could claim any address",
    ),
    ({"session_param": "sid"}, "--session-param: session_param has no meaning with sticky ip: set sticky to session"),
    ({"session_header": "x"}, "--session-header: session_header has no meaning with sticky ip: set sticky to session"),
    (
        {"token_issuer": "me"},
        "--token-issuer: token_issuer needs token_hmac_secret or public keys: without them no token is read",
    ),
    (
        {"token_audience": "us"},
        "--token-audience: token_audience needs token_hmac_secret or public keys: without them no token is read",
    ),
    (
        {"anonymous": "no"},
        "--anonymous: no client could connect: anonymous is no, and there is no token_hmac_secret, public key or JWKS",
    ),
    ({"bind": ","}, "--bind: there must be at least one address to listen on"),
]


@pytest.mark.parametrize(("given", "sentence"), RELATIONS)
def test_values_that_contradict_each_other_are_refused_at_start(
    tmp_path: Path, given: dict[str, str], sentence: str
) -> None:
    assert refusal(command_line=given, directory=tmp_path) == sentence


def test_a_contradiction_is_laid_on_the_value_that_was_given(tmp_path: Path) -> None:
    with_toml(tmp_path, "pong = 30")
    assert refusal(directory=tmp_path).startswith("realtime.toml line 1, pong: ")


# What they are then


def test_auto_is_the_number_of_processors_this_process_may_use(tmp_path: Path) -> None:
    assert resolve({"workers": "auto"}, environ={}, directory=tmp_path).workers == usable_cpus()


def test_units_are_understood(tmp_path: Path) -> None:
    given = {"ping_s": "1m", "pong_s": "500ms", "message_bytes": "128KiB", "outbound_bytes": "2 MiB", "drain_s": "0"}
    settings = resolve(given, environ={}, directory=tmp_path)
    assert (settings.ping_s, settings.pong_s, settings.drain_s) == (60, 0.5, 0)
    assert (settings.message_bytes, settings.outbound_bytes) == (128 * 1024, 2 * 1024**2)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("chat.example.org", "http://chat.example.org"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("https://chat.example.org/rt", "https://chat.example.org/rt"),
    ],
)
def test_the_address_of_a_server_may_have_no_scheme(tmp_path: Path, given: str, url: str) -> None:
    assert resolve({}, environ={"REALTIME_URL": given}, directory=tmp_path).url == url


def test_clients_without_a_token_may_connect_unless_there_is_a_token_secret() -> None:
    assert Settings().allows_anonymous
    assert not Settings(token_hmac_secret=SECRET).allows_anonymous
    assert Settings(token_hmac_secret=SECRET, anonymous=True).allows_anonymous


def test_settings_survive_the_way_to_a_worker(tmp_path: Path) -> None:
    settings = resolve({"bind": (":1", ":2"), "secret": SECRET, "ping_s": "30"}, environ={}, directory=tmp_path)
    sent = msgspec.msgpack.encode(settings.to_builtins())
    arrived = Settings.from_builtins(msgspec.msgpack.decode(sent))
    assert arrived == settings
    assert arrived.sources == settings.sources


def test_every_option_has_a_sentence_a_group_and_names_of_its_own() -> None:
    for names in ([o.env for o in options()], [o.flag for o in options()], [o.key for o in options()]):
        assert len(names) == len(set(names))
    for option in options():
        assert option.help.endswith("."), option.name
        if option.default not in (None, ()) and option.name != "workers":
            assert option.kind.parse(option.default) == option.default, option.name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().workers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user:pa%40ss@db:6379", "redis://***@db:6379"),
        ("redis://:p@ss@db", "redis://***@db"),
        ("redis+sentinel://u:p@a:1,b:2/s?sentinel_password=x", "redis+sentinel://***@a:1,b:2/s?***"),
        ("redis+cluster://u:p@a:1,b:2", "redis+cluster://***@a:1,b:2"),
        ("unix:///run/redis.sock?password=x&db=1", "unix:///run/redis.sock?***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


# Processors


def cgroup(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n1:name=systemd:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_a_quota_of_the_control_group_limits_the_processors(
    tmp_path: Path, files: dict[str, str], cpus: int | None
) -> None:
    unlimited = len(os.sched_getaffinity(0))
    assert usable_cpus(cgroup(tmp_path, files)) == (unlimited if cpus is None else min(cpus, unlimited))


# The runtime directory


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory that is not too deep for a socket in it, whatever the directory of the tests is."""
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as directory:
        yield Path(directory)


def test_the_runtime_directory_is_made_for_this_user_alone(short_path: Path) -> None:
    path = runtime_directory({"XDG_RUNTIME_DIR": str(short_path)})
    assert path == short_path / "realtime"
    assert path.stat().st_mode & 0o777 == 0o700
    assert runtime_directory({"TMPDIR": str(short_path)}) == short_path / f"realtime-{os.geteuid()}"


def test_a_runtime_directory_is_never_too_deep_for_a_socket_in_it(short_path: Path) -> None:
    deep = short_path / ("d" * 100)
    deep.mkdir()
    assert runtime_directory({"XDG_RUNTIME_DIR": str(deep), "TMPDIR": str(short_path)}).parent == short_path
    assert runtime_directory({"XDG_RUNTIME_DIR": str(deep), "TMPDIR": str(deep)}).parent == Path("/tmp")


def test_a_runtime_directory_that_others_could_write_to_is_refused(short_path: Path) -> None:
    (short_path / "realtime").mkdir()
    (short_path / "realtime").chmod(0o777)
    with pytest.raises(SettingsError, match="must be its user's own, with mode 0700"):
        runtime_directory({"XDG_RUNTIME_DIR": str(short_path)})


def test_a_link_in_place_of_the_runtime_directory_is_refused(short_path: Path) -> None:
    (short_path / "elsewhere").mkdir(mode=0o700)
    (short_path / "realtime").symlink_to(short_path / "elsewhere")
    with pytest.raises(SettingsError, match="must be its user's own"):
        runtime_directory({"XDG_RUNTIME_DIR": str(short_path)})


# The page


def test_the_reference_page_says_what_the_settings_say() -> None:
    written = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
    assert written.read_text(encoding="utf-8") == page(), "python -m realtime.settings > docs/settings.md"
