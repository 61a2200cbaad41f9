"""
The peer redis-py in S4: its asyncio `publish` and, in the same process, `listen` of as many subscribers as are asked.

`python -m … REDIS_PORT LISTENERS`, on uvloop with hiredis. It says `ready`; a line `COUNT RATE BURST` on its standard
input has it publish, and one line of JSON answers: how many were heard, and the delays in µs from when each was due. It
knows no WebSocket; its work is that of `realtime`'s processes between two workers, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import redis.asyncio
import uvloop

PAYLOAD = "x" * 100


async def main(port: int, listeners: int) -> None:
    """Subscribe, then publish as often as a line says."""
    client = redis.asyncio.Redis(port=port)
    heard = asyncio.Queue[float]()

    async def listen(subscriber: redis.asyncio.client.PubSub) -> None:
        async for message in subscriber.listen():
            if message["type"] == "message":
                due = json.loads(message["data"])["due"]
                heard.put_nowait(time.monotonic() - due)

    subscribers = [client.pubsub() for _ in range(listeners)]
    for each in subscribers:
        await each.subscribe("bench")
    tasks = [asyncio.create_task(listen(each)) for each in subscribers]
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        count, rate, burst = (int(each) for each in line.split())
        begin = time.monotonic()
        for number in range(0, count, burst):
            due = begin + number // burst / rate
            await asyncio.sleep(max(due - time.monotonic(), 0))
            message = json.dumps({"due": due, "x": PAYLOAD})
            if burst == 1:
                await client.publish("bench", message)
            else:
                async with client.pipeline(transaction=False) as pipeline:  # one round trip
                    for _ in range(min(burst, count - number)):
                        pipeline.publish("bench", message)
                    await pipeline.execute()
        delays = sorted([await heard.get() for _ in range(count * listeners)])
        share = {f"p{each}": delays[int(len(delays) * each / 100)] * 1e6 for each in (50, 99)}
        print(json.dumps({"heard": len(delays), **share}), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
