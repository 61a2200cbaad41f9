"""
`--compression` (permessage-deflate) with clients that others wrote: websockets' own, and a browser.

What each side may do is in tests/realtime/transport/test_deflate.py; here real processes serve clients as they come.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.support.aio import run_async
from tests.support.chromium import Chromium
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer

LONG = "long enough to be compressed, and worth it, "


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The stock application on two workers."""
    with RunningServer(None, "--compression", workers=2) as server:
        server.wait_until_full()
        yield server


@run_async
async def test_members_that_compress_and_one_that_does_not_hear_the_same(server: RunningServer) -> None:
    members = [await ProtocolClient.open(server.websocket_url, compression=how) for how in ("deflate", "deflate", None)]
    for each in members:
        await each.ask("connect")
        await each.ask("subscribe", channel="crowd")
    for number, sender in enumerate(members):
        for text in (LONG * 50, "ü", LONG * 1000):
            said = {"number": number, "text": text}
            await sender.ask("publish", channel="crowd", data=said)
            for each in members:
                assert (await each.push("pub"))["pub"]["data"] == said
    for each in members:
        await each.close()
        assert each.closed == (1000, "")


@pytest.mark.parametrize(
    "offer",
    [
        ClientPerMessageDeflateFactory(),
        ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
        ClientPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=9),
        ClientPerMessageDeflateFactory(client_max_window_bits=None),
    ],
    ids=["as it comes", "no contexts", "small windows", "no word of windows"],
)
@run_async
async def test_a_client_may_compress_as_it_offered(
    server: RunningServer, offer: ClientPerMessageDeflateFactory
) -> None:
    async with connect(server.websocket_url, compression=None, extensions=[offer]) as client:
        assert client.response is not None
        assert "server_no_context_takeover" in client.response.headers["Sec-WebSocket-Extensions"]
        await client.send('{"id":1,"connect":{}}')
        assert '"id":1' in str(await client.recv())
        for number in range(2, 5):
            call = (f'{{"id":{number},"rpc":{{"method":"', "nothing", '","data":"', LONG * 100, '"}}')
            await client.send("".join(call) if number % 2 else call)
            assert f'"id":{number},"error"' in str(await client.recv())


@pytest.mark.browser
def test_a_browser_offers_it_and_hears_what_it_said(server: RunningServer) -> None:
    script = f"""new Promise((resolve, reject) => {{
        const socket = new WebSocket({server.websocket_url!r});
        const data = {LONG!r}.repeat(100);
        socket.onopen = () => socket.send('{{"id":1,"connect":{{}}}}\\n{{"id":2,"subscribe":{{"channel":"page"}}}}');
        socket.onclose = (event) => reject(new Error(`closed: ${{event.code}} ${{event.reason}}`));
        socket.onmessage = (event) => {{
          for (const line of event.data.split('\\n')) {{
            const reply = JSON.parse(line);
            if (reply.id === 2) socket.send(JSON.stringify({{ id: 3, publish: {{ channel: 'page', data }} }}));
            if (reply.push?.pub) resolve([socket.extensions, reply.push.pub.data === data]);
          }}
        }};
    }})"""
    with Chromium() as browser:
        page = browser.page(f"{server.url}/health")
        extensions, is_same = page.evaluate(script)
        assert extensions.startswith("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
        assert is_same
