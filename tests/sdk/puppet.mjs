// Clients of the stock JavaScript SDK on strings: each line of standard input is an order, each line of standard output
// is an event that the SDK told of, or the answer to an order. tests/sdk/test_node_sdk.py pulls the strings.
//
//   in    {"id": 1, "client": "ada", "do": "publish", "channel": "open:hall", "data": "hello"}
//   out   {"answer": 1, "result": null}
//   out   {"client": "ada", "event": "publication", "channel": "open:hall", "data": "hello", ...}
//
// Nothing is done to the SDK but what its documentation says; only names are made the same as in Python.

// The first argument says over what: websocket, http_stream or sse; the second, "protobuf", in which encoding.

import readline from "node:readline";
import { EventSource } from "eventsource";
import WebSocket from "ws";

const [transport = "websocket", encoding = "json"] = process.argv.slice(2);
const isProtobuf = encoding === "protobuf";
const { Centrifuge } = await import(isProtobuf ? "centrifuge/build/protobuf" : "centrifuge");

// In Protobuf payloads are bytes; what these bytes say is JSON here.
const packed = (value) => (isProtobuf ? new TextEncoder().encode(JSON.stringify(value)) : value);
const unpacked = (data) => (isProtobuf && data instanceof Uint8Array ? (data.length ? JSON.parse(new TextDecoder().decode(data)) : undefined) : data);

// Where a client connects to, by the address of the WebSocket.
function endpoints(url) {
  if (transport === "websocket") return [url, {}];
  const base = url.replace("ws://", "http://");
  const options = { emulationEndpoint: base.replace("/connection/websocket", "/emulation"), eventsource: EventSource };
  return [[{ transport, endpoint: base.replace("websocket", transport) }], options];
}

const clients = new Map();
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const who = (info) =>
  info === undefined ? null : { user: info.user, client: info.client, info: unpacked(info.connInfo) ?? null, room: unpacked(info.chanInfo) ?? null };
const pub = (ctx) => ({ data: unpacked(ctx.data), offset: ctx.offset ?? 0, info: who(ctx.info), tags: ctx.tags ?? {} });
const entered = (ctx) => ({
  channel: ctx.channel,
  recoverable: ctx.recoverable,
  was_recovering: ctx.wasRecovering,
  recovered: ctx.recovered,
  position: ctx.streamPosition ?? null,
  data: unpacked(ctx.data) ?? null,
});

// A client is told the tokens that it will need, in order; the last serves from then on.
function giver(tokens, told) {
  let given = 0;
  return tokens && (async () => {
    told();
    return tokens[Math.min(given++, tokens.length - 1)];
  });
}

function open({ client: name, url, token, tokens, data, ping_delay_s }) {
  const tell = (event, more) => say({ client: name, event, ...more });
  const [where, more] = endpoints(url);
  const options = { websocket: WebSocket, name: "node", minReconnectDelay: 50, ...more };
  if (token) options.token = token;
  if (tokens) options.getToken = giver(tokens, () => tell("asked_for_token", {}));
  if (data) options.data = packed(data);
  if (ping_delay_s) options.maxServerPingDelay = 1000 * ping_delay_s;
  const client = new Centrifuge(where, options);
  client.on("connecting", (ctx) => tell("connecting", { code: ctx.code, reason: ctx.reason }));
  client.on("connected", (ctx) => tell("connected", { id: ctx.client, data: unpacked(ctx.data) ?? null }));
  client.on("disconnected", (ctx) => tell("disconnected", { code: ctx.code, reason: ctx.reason }));
  client.on("error", (ctx) => tell("error", { code: ctx.error.code, message: ctx.error.message }));
  client.on("message", (ctx) => tell("message", { data: unpacked(ctx.data) }));
  client.on("subscribed", (ctx) => tell("server_subscribed", entered(ctx)));
  client.on("unsubscribed", (ctx) => tell("server_unsubscribed", { channel: ctx.channel }));
  client.on("publication", (ctx) => tell("server_publication", { channel: ctx.channel, ...pub(ctx) }));
  client.on("join", (ctx) => tell("server_join", { channel: ctx.channel, info: who(ctx.info) }));
  client.on("leave", (ctx) => tell("server_leave", { channel: ctx.channel, info: who(ctx.info) }));
  clients.set(name, client);
  client.connect();
}

function subscribe(client, { client: name, channel, token, tokens, data }) {
  const tell = (event, more) => say({ client: name, event, channel, ...more });
  const options = {};
  if (token) options.token = token;
  if (tokens) options.getToken = giver(tokens, () => tell("asked_for_token", {}));
  if (data) options.data = packed(data);
  let sub = client.getSubscription(channel);
  if (sub === null) {
    sub = client.newSubscription(channel, options);
    sub.on("subscribing", (ctx) => tell("subscribing", { code: ctx.code, reason: ctx.reason }));
    sub.on("subscribed", (ctx) => tell("subscribed", entered(ctx)));
    sub.on("unsubscribed", (ctx) => tell("unsubscribed", { code: ctx.code, reason: ctx.reason }));
    sub.on("publication", (ctx) => tell("publication", pub(ctx)));
    sub.on("join", (ctx) => tell("join", { info: who(ctx.info) }));
    sub.on("leave", (ctx) => tell("leave", { info: who(ctx.info) }));
    sub.on("error", (ctx) => tell("subscription_error", { code: ctx.error.code, message: ctx.error.message }));
  }
  sub.subscribe();
}

const people = (presence) => Object.fromEntries(Object.entries(presence.clients).map(([id, info]) => [id, who(info)]));

const orders = {
  connect: (client) => client.connect(),
  disconnect: (client) => client.disconnect(),
  subscribe,
  unsubscribe: (client, { channel }) => client.getSubscription(channel).unsubscribe(),
  publish: async (client, { channel, data }) => void (await client.publish(channel, packed(data))),
  presence: async (client, { channel }) => people(await client.presence(channel)),
  presence_stats: async (client, { channel }) => {
    const { numClients, numUsers } = await client.presenceStats(channel);
    return { clients: numClients, users: numUsers };
  },
  history: async (client, { channel, limit, since, reverse }) => {
    const page = await client.history(channel, { limit, since: since ?? undefined, reverse });
    return { publications: page.publications.map(pub), offset: page.offset, epoch: page.epoch };
  },
  rpc: async (client, { method, data }) => unpacked((await client.rpc(method, packed(data))).data) ?? null,
  send: (client, { data }) => client.send(packed(data)),
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
