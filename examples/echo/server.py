"""
`sticky` alone, without `realtime`: lines come back from one of four processes, always the same for an address.

Run it with `python examples/echo/server.py 127.0.0.1:7000`, and `nc 127.0.0.1 7000`.
"""

import asyncio
import sys

from sticky import Adopted, Cluster, ClusterSettings, Worker


async def serve(worker: Worker, adopted: Adopted) -> None:
    reader, writer = await asyncio.open_connection(sock=adopted.sock)
    while line := await reader.readline():
        writer.write(b"slot %d: %s" % (worker.slot, line))
    writer.close()
    worker.closed(adopted)


async def work() -> None:
    worker = await Worker.connect()
    async with asyncio.TaskGroup() as tasks:
        worker.ready()
        await worker.run(
            on_connection=lambda adopted: tasks.create_task(serve(worker, adopted)),
            on_drain=lambda deadline_s: asyncio.sleep(0),
        )


if len(sys.argv) != 2:
    sys.exit("usage: server.py 127.0.0.1:7000")
if sys.argv[1:] == ["work"]:
    asyncio.run(work())
else:
    settings = ClusterSettings(binds=(sys.argv[1],), workers=4, raw=True)
    sys.exit(Cluster(settings, worker_argv=[sys.executable, __file__, "work"], on_listening=print).run())
