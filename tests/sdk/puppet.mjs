// Clients of the stock JavaScript SDK on strings: each line of standard input is an order, each line of standard output
// is an event that the SDK told of, or the answer to an order. tests/sdk/test_node_sdk.py pulls the strings.
//
//   in    {"id": 1, "client": "ada", "do": "publish", "channel": "open:hall", "data": "hello"}
//   out   {"answer": 1, "result": null}
//   out   {"client": "ada", "event": "publication", "channel": "open:hall", "data": "hello", ...}
//
// Nothing is done to the SDK but what its documentation says; only names are made the same as in Python.

import readline from "node:readline";
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

const clients = new Map();
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const who = (info) =>
  info === undefined ? null : { user: info.user, client: info.client, info: info.connInfo ?? null, room: info.chanInfo ?? null };
const pub = (ctx) => ({ data: ctx.data, offset: ctx.offset ?? 0, info: who(ctx.info), tags: ctx.tags ?? {} });
const entered = (ctx) => ({
  channel: ctx.channel,
  recoverable: ctx.recoverable,
  was_recovering: ctx.wasRecovering,
  recovered: ctx.recovered,
  position: ctx.streamPosition ?? null,
  data: ctx.data ?? null,
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
  const options = { websocket: WebSocket, name: "node", minReconnectDelay: 50 };
  if (token) options.token = token;
  if (tokens) options.getToken = giver(tokens, () => tell("asked_for_token", {}));
  if (data) options.data = data;
  if (ping_delay_s) options.maxServerPingDelay = 1000 * ping_delay_s;
  const client = new Centrifuge(url, options);
  client.on("connecting", (ctx) => tell("connecting", { code: ctx.code, reason: ctx.reason }));
  client.on("connected", (ctx) => tell("connected", { id: ctx.client, data: ctx.data ?? null }));
  client.on("disconnected", (ctx) => tell("disconnected", { code: ctx.code, reason: ctx.reason }));
  client.on("error", (ctx) => tell("error", { code: ctx.error.code, message: ctx.error.message }));
  client.on("message", (ctx) => tell("message", { data: ctx.data }));
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
  if (data) options.data = data;
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
  publish: async (client, { channel, data }) => void (await client.publish(channel, data)),
  presence: async (client, { channel }) => people(await client.presence(channel)),
  presence_stats: async (client, { channel }) => {
    const { numClients, numUsers } = await client.presenceStats(channel);
    return { clients: numClients, users: numUsers };
  },
  history: async (client, { channel, limit, since, reverse }) => {
    const page = await client.history(channel, { limit, since: since ?? undefined, reverse });
    return { publications: page.publications.map(pub), offset: page.offset, epoch: page.epoch };
  },
  rpc: async (client, { method, data }) => (await client.rpc(method, data)).data ?? null,
  send: (client, { data }) => client.send(data),
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
