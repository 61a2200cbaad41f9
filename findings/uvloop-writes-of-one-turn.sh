#!/bin/sh
# uvloop: four `transport.write` calls in one turn of the loop
#
# Versions: uvloop 0.21.0, 0.22.1 and 0.23.0 (PyPI), on Linux with Python 3.11 or newer.
# Behaviour: 0.21.0 and 0.22.1 join what is written in one turn, and TCP sends one segment. 0.23.0 sends each write at
#   once: four segments, as asyncio's own loop does. So a server that relied on the joining has, after this minor
#   version, one system call for each write, and its clients wake up for each.
# Output seen: "0.21.0: 1", "0.22.1: 1", "0.23.0: 4" (segments with data, from tcp_info).
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/count.py" <<'PY'
import asyncio
import socket
import struct
import sys

import uvloop

DATA_SEGS_OUT = 156  # offset of tcpi_data_segs_out in struct tcp_info of linux/tcp.h


async def main() -> int:
    counted = asyncio.get_running_loop().create_future()

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            for _ in range(4):
                self.transport.write(b"x" * 100)
            asyncio.get_running_loop().call_later(0.3, self.count)

        def count(self):
            sock = self.transport.get_extra_info("socket")
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            counted.set_result(struct.unpack_from("@I", info, DATA_SEGS_OUT)[0])

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"go")
    await reader.readexactly(400)
    found = await counted
    writer.close()
    server.close()
    return found


print(f"{uvloop.__version__}: {uvloop.run(main())}")
PY
for pinned in uvloop==0.21.0 uvloop==0.22.1 uvloop==0.23.0; do
    python3 -m venv "$folder/$pinned"
    "$folder/$pinned/bin/pip" --disable-pip-version-check --quiet install "$pinned"
    "$folder/$pinned/bin/python" "$folder/count.py"
done | tee "$folder/seen"
printf '0.21.0: 1\n0.22.1: 1\n0.23.0: 4\n' | diff - "$folder/seen"
