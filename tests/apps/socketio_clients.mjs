// A hundred clients of socket.io-client, at once: each comes, calls, is cut, comes back by itself, calls again.
// Usage: node socketio_clients.mjs URL TRANSPORTS COUNT; TRANSPORTS is "polling", "websocket" or "polling,websocket".
// One line of JSON for each client: {"pids": [[…], […]], "transports": [first, second]} or {"error": "…"}.

import { io } from '../sdk/node_modules/socket.io-client/build/esm-debug/index.js'

const [url, transports, count] = process.argv.slice(2)
const CALLS = 5
const DEADLINE_MS = 40_000

function once(emitter, event) {
  return new Promise((resolve) => emitter.once(event, resolve))
}

/** Wait until the engine speaks over the last of its transports: what it began with, or what it upgraded to. */
async function settled(socket) {
  const wanted = transports.split(',').at(-1)
  if (socket.io.engine.transport.name !== wanted) await once(socket.io.engine, 'upgrade')
  return socket.io.engine.transport.name
}

async function calls(socket) {
  const pids = new Set()
  for (let number = 0; number < CALLS; number += 1) {
    const answer = await socket.emitWithAck('echo', number)
    if (answer.data !== number) throw new Error(`asked with ${number}, answered with ${answer.data}`)
    pids.add(answer.pid)
  }
  return [...pids]
}

async function visit() {
  // Cookies as a browser keeps them; whoever is refused does not try again, but tells.
  const socket = io(url, {
    transports: transports.split(','),
    withCredentials: true,
    forceNew: true,
    reconnectionAttempts: 1,
    reconnectionDelay: 10,
    timeout: DEADLINE_MS,
  })
  let refuse
  const refused = new Promise((_, reject) => { refuse = reject })
  refused.catch(() => {}) // also when nobody waits for it any more
  const timer = setTimeout(() => refuse(new Error('nothing happened for too long')), DEADLINE_MS)
  socket.on('connect_error', (error) => refuse(error))
  socket.on('disconnect', (reason) => {
    // What the test does itself is a "transport close"; a session that is not known ends otherwise.
    if (reason !== 'transport close' && reason !== 'io client disconnect') refuse(new Error(reason))
  })
  const story = async () => {
    await once(socket, 'connect')
    const first = { transport: await settled(socket), pids: await calls(socket) }
    const back = once(socket, 'connect')
    socket.io.engine._onClose('transport close') // the cut: what the engine does when its connection is gone
    await back
    const second = { transport: await settled(socket), pids: await calls(socket) }
    return { pids: [first.pids, second.pids], transports: [first.transport, second.transport] }
  }
  try {
    return await Promise.race([story(), refused])
  } catch (error) {
    return { error: `${error.message}${error.description?.status ? ` ${error.description.status}` : ''}` }
  } finally {
    clearTimeout(timer)
    socket.disconnect()
  }
}

const found = await Promise.all(Array.from({ length: Number(count) }, visit))
for (const each of found) console.log(JSON.stringify(each))
process.exit(0) // a poll that hangs on would keep it
