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
const { Centrifuge, UnauthorizedError } = await import(isProtobuf ? "centrifuge/build/protobuf" : "centrifuge");

// In Protobuf payloads are bytes; what these bytes say is JSON here.
const packed = (value) => (isProtobuf ? new TextEncoder().encode(JSON.stringify(value)) : value);
const unpacked = (data) => (isProtobuf && data instanceof Uint8Array ? (data.length ? JSON.parse(new TextDecoder().decode(data)) : undefined) : data);

// Where a client connects to, by the address of the WebSocket; `detour` is tried before, and leads nowhere.
function endpoints(url, detour) {
  const base = url.replace("ws://", "http://");
  const options = { emulationEndpoint: base.replace("/connection/websocket", "/emulation"), eventsource: EventSource };
  const where = { transport, endpoint: transport === "websocket" ? url : base.replace("websocket", transport) };
  if (detour) return [[{ transport: "websocket", endpoint: url.replace("/connection/websocket", "/nowhere") }, where], options];
  return transport === "websocket" ? [url, {}] : [[where], options];
}

const clients = new Map();
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const who = (info) =>
  info === undefined ? null : { user: info.user, client: info.client, info: unpacked(info.connInfo) ?? null, room: unpacked(info.chanInfo) ?? null };
const pub = (ctx) => ({ data: unpacked(ctx.data), offset: ctx.offset ?? 0, info: who(ctx.info), tags: ctx.tags ?? {} });
const entered = (ctx) => ({
  channel: ctx.channel,
  recoverable: ctx.recoverable,
  positioned: ctx.positioned,
  was_recovering: ctx.wasRecovering,
  recovered: ctx.recovered,
  position: ctx.streamPosition ?? null,
  data: unpacked(ctx.data) ?? null,
});

// A client is told the tokens that it will need, in order; the last serves from then on. In place of one there may be
// what goes wrong when it is fetched: {"fails": "unauthorized"}, at which the SDK gives up, or anything else.
function giver(tokens, told) {
  let given = 0;
  return tokens && (async () => {
    told();
    const token = tokens[Math.min(given++, tokens.length - 1)];
    if (token.fails) throw token.fails === "unauthorized" ? new UnauthorizedError() : new Error(token.fails);
    return token;
  });
}

// Data that is asked for each time: the first time 1, then 2.
function counter(told) {
  let asked = 0;
  return async () => {
    told();
    return packed({ asked: ++asked });
  };
}

function open({ client: name, url, detour, token, tokens, data, counts, headers, ping_delay_s, timeout_s }) {
  const tell = (event, more) => say({ client: name, event, ...more });
  const [where, more] = endpoints(url, detour);
  const options = { websocket: WebSocket, name: "node", minReconnectDelay: 50, ...more };
  if (token) options.token = token;
  if (tokens) options.getToken = giver(tokens, () => tell("asked_for_token", {}));
  if (data) options.data = packed(data);
  if (counts) options.getData = counter(() => tell("asked_for_data", {}));
  if (headers) options.headers = headers;
  if (ping_delay_s) options.maxServerPingDelay = 1000 * ping_delay_s;
  if (timeout_s) options.timeout = 1000 * timeout_s;
  const client = new Centrifuge(where, options);
  client.on("state", (ctx) => tell("state", { from: ctx.oldState, to: ctx.newState }));
  client.on("connecting", (ctx) => tell("connecting", { code: ctx.code, reason: ctx.reason }));
  client.on("connected", (ctx) => tell("connected", { id: ctx.client, data: unpacked(ctx.data) ?? null }));
  client.on("disconnected", (ctx) => tell("disconnected", { code: ctx.code, reason: ctx.reason }));
  client.on("error", (ctx) => tell("error", { code: ctx.error.code, message: ctx.error.message }));
  client.on("message", (ctx) => tell("message", { data: unpacked(ctx.data) }));
  client.on("subscribed", (ctx) => tell("server_subscribed", entered(ctx)));
  client.on("subscribing", (ctx) => tell("server_subscribing", { channel: ctx.channel }));
  client.on("unsubscribed", (ctx) => tell("server_unsubscribed", { channel: ctx.channel }));
  client.on("publication", (ctx) => tell("server_publication", { channel: ctx.channel, ...pub(ctx) }));
  client.on("join", (ctx) => tell("server_join", { channel: ctx.channel, info: who(ctx.info) }));
  client.on("leave", (ctx) => tell("server_leave", { channel: ctx.channel, info: who(ctx.info) }));
  clients.set(name, client);
  client.connect();
}

function subscribe(client, { client: name, channel, kind, token, tokens, data, counts, since, delta, tags, states, asks }) {
  const tell = (event, more) => say({ client: name, event, channel, ...more });
  const options = { minResubscribeDelay: 50, ...asks };
  if (token) options.token = token;
  if (tokens) options.getToken = giver(tokens, () => tell("asked_for_token", {}));
  if (data) options.data = packed(data);
  if (counts) options.getData = counter(() => tell("asked_for_data", {}));
  if (since) options.since = since;
  if (delta) options.delta = delta;
  if (tags) options.tagsFilter = tags;
  if (states) options.getState = giver(states, () => tell("asked_for_state", {}));
  let sub = client.getSubscription(channel);
  if (sub === null) {
    sub = kind ? client[`new${kind}Subscription`](channel, options) : client.newSubscription(channel, options);
    sub.on("state", (ctx) => tell("subscription_state", { from: ctx.oldState, to: ctx.newState }));
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
  set: (client, { token, data, headers }) => {
    if (token !== undefined) client.setToken(token);
    if (data !== undefined) client.setData(packed(data));
    if (headers !== undefined) client.setHeaders(headers);
  },
  set_in: (client, { channel, data, tags }) => {
    const sub = client.getSubscription(channel);
    if (data !== undefined) sub.setData(packed(data));
    if (tags !== undefined) sub.setTagsFilter(tags);
  },
  ready: async (client, { channel, timeout_ms }) =>
    void (await (channel ? client.getSubscription(channel) : client).ready(timeout_ms)),
  // What the client keeps its subscriptions by.
  make: (client, { channel }) => void client.newSubscription(channel),
  remove: (client, { channel }) => client.removeSubscription(client.getSubscription(channel)),
  subscriptions: (client) => Object.keys(client.subscriptions()),
  // What is asked of one room's subscription, and not of the client.
  in_room: async (client, { channel, what, data, options }) => {
    const sub = client.getSubscription(channel);
    if (what === "publish") return void (await sub.publish(packed(data)));
    if (what === "presence") return people(await sub.presence());
    if (what === "presence_stats") return (await sub.presenceStats()).numClients;
    const page = await sub.history(options ?? { limit: -1 });
    return { publications: page.publications.map(pub), offset: page.offset, epoch: page.epoch };
  },
  // Everything in one message. Answers with what the last was answered.
  batch: async (client, { channel, count }) => {
    client.startBatching();
    const answers = [];
    for (let number = 1; number <= count; number++) answers.push(client.publish(channel, packed(number)));
    answers.push(client.rpc("echo", packed("last")));
    await new Promise((resolve) => setImmediate(resolve));
    client.stopBatching();
    return unpacked((await Promise.all(answers)).at(-1).data);
  },
  // Bytes that are no JSON, there and back.
  publish_bytes: async (client, { channel, bytes }) => void (await client.publish(channel, new Uint8Array(bytes))),
  hear_bytes: (client, { client: name, channel }) => {
    const sub = client.newSubscription(channel);
    sub.on("subscribed", () => say({ client: name, event: "subscribed", channel }));
    sub.on("unsubscribed", (ctx) => say({ client: name, event: "unsubscribed", channel, code: ctx.code }));
    sub.on("publication", (ctx) => say({ client: name, event: "bytes", channel, bytes: Array.from(ctx.data) }));
    sub.subscribe();
  },
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
