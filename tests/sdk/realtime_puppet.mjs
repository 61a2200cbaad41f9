// Clients of our own `realtime.js` on strings, by the words of puppet.mjs. Node 20 has no WebSocket: it is that of `ws`.

import readline from "node:readline";
import WebSocket from "ws";
import { Realtime } from "../../realtime/client/realtime.js";

const clients = new Map();
const rooms = new Map();
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

function open({ client: name, url, data }) {
  const tell = (event, more) => say({ client: name, event, ...more });
  const client = new Realtime(url, { WebSocket, data, minDelayMs: 50 });
  client.on("state", ({ state, was, code, reason }) => {
    if (state === "connecting") tell("connecting", { from: was, code, reason });
  });
  client.on("connected", ({ client: id, data }) => tell("connected", { id, data: data ?? null }));
  client.on("reconnecting", ({ code, reason }) => tell("reconnecting", { code, reason }));
  client.on("disconnected", ({ code, reason }) => tell("disconnected", { code, reason }));
  client.on("error", (error) => tell("error", { code: error.code ?? 0, message: error.message }));
  clients.set(name, client);
  client.connect().catch(() => {}); // what it says is told as an event
}

function subscribe(client, { client: name, channel, asks }) {
  const tell = (event, more) => say({ client: name, event, channel, ...more });
  const room = client.room(channel, asks ?? {});
  rooms.set(`${name} ${channel}`, room);
  room.on("state", ({ state, code, reason }) => {
    if (state !== "subscribed") tell(state === "subscribing" ? "subscribing" : "unsubscribed", { code, reason });
  });
  room.on("subscribed", ({ wasRecovering, recovered, position }) => {
    tell("subscribed", { was_recovering: wasRecovering, recovered, position });
  });
  room.on("message", ({ data, offset }) => tell("publication", { data, offset }));
  room.on("join", (info) => tell("join", { info }));
  room.on("leave", (info) => tell("leave", { info }));
  room.on("error", (error) => tell("subscription_error", { code: error.code ?? 0, message: error.message }));
  room.subscribe().catch(() => {});
}

const orders = {
  subscribe,
  rpc: (client, { method, data }) => client.rpc(method, data),
  publish: (client, { client: name, channel, data }) => rooms.get(`${name} ${channel}`).publish(data),
  presence: async (client, { client: name, channel }) =>
    Object.fromEntries(await rooms.get(`${name} ${channel}`).presence()),
};

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const order = JSON.parse(line);
  try {
    const result = order.do === "open" ? open(order) : await orders[order.do](clients.get(order.client), order);
    say({ answer: order.id, result: result ?? null });
  } catch (error) {
    say({ answer: order.id, error: { code: error.code ?? 0, message: error.message ?? String(error) } });
  }
}).on("close", () => process.exit(0));
