/** The client's connection: what it says, how it comes back, what ends it. The server is played by the test. */

import assert from 'node:assert/strict';
import { after, mock, test } from 'node:test';

import { Realtime, RealtimeError } from '../../../realtime/client/realtime.js';
import { FakeServer, connected, next, record, turn } from './fake_server.mjs';

const clients = [];
const make = async (...args) => {
  const made = await connected(Realtime, ...args);
  clients.push(made.client);
  return made;
};
after(() => clients.forEach((client) => client.disconnect()));

test('connect says the token, the data and the name, and resolves with what the server answered', async () => {
  const server = new FakeServer();
  const client = new Realtime('http://test/x', { WebSocket: server.WebSocket, token: 'T', data: () => ({ a: 1 }) });
  const states = record(client, 'state');
  const ready = client.connect();
  const connection = await server.connection();
  assert.equal(connection.url, 'ws://test/x');
  const said = await connection.admit({ data: { slot: 2 } });
  await ready;
  assert.deepEqual([said.id, said.token, said.data, said.name], [1, 'T', { a: 1 }, 'js']);
  assert.deepEqual([client.state, client.client, client.data], ['connected', 'c1', { slot: 2 }]);
  assert.deepEqual(states.map(({ state }) => state), ['connecting', 'connected']);
  client.disconnect();
});

test('an address that is none is refused when the client is made', () => {
  assert.throws(() => new Realtime('nonsense'), TypeError);
  assert.throws(() => new Realtime('ftp://host/x'), /not a WebSocket address/);
});

test('where there is no WebSocket it says so when the client is made', () => {
  assert.throws(() => new Realtime('ws://host/x', { WebSocket: undefined }), /Node 22 has one; or pass/);
});

test('a ping is answered with an empty command, in every turn anew', async () => {
  const { connection } = await make({}, { ping: 25, pong: true });
  connection.raw('{}');
  await turn();
  connection.raw('{}\n');
  await turn();
  assert.deepEqual(connection.frames.slice(1), ['{}', '{}']);
});

test('a ping is not answered where the server wants no pong', async () => {
  const { connection } = await make({}, { ping: 25 });
  connection.raw('{}');
  await turn();
  assert.equal(connection.frames.length, 1);
});

test('what nobody knows is ignored', async () => {
  const { client, connection } = await make({}, { pong: true, surprise: [1] });
  connection.raw('{"news":1}\n{"push":{"channel":"a","later":{}}}\nnull\n7\n"x"\n[]\n{"id":99,"publish":{}}');
  await turn();
  assert.equal(client.state, 'connected');
});

test('commands of one turn leave in one frame, in order', async () => {
  const { client, connection } = await make();
  const room = client.room('a');
  const published = [room.publish(1), room.publish(2), client.send(3)];
  await turn();
  assert.equal(connection.frames.length, 2);
  assert.deepEqual(connection.commands.slice(1), [
    { id: 2, publish: { channel: 'a', data: 1 } }, { id: 3, publish: { channel: 'a', data: 2 } }, { send: { data: 3 } },
  ]);
  connection.say({ id: 2, publish: {} }, { id: 3, publish: {} });
  await Promise.all(published);
});

test('a frame of joined commands stays below what the server takes', async () => {
  const { client, connection } = await make();
  const text = 'ü'.repeat(6000);
  for (let n = 0; n < 9; n += 1) client.room('a').publish(text).catch(() => {});
  await turn();
  assert.equal(connection.commands.length, 10);
  for (const frame of connection.frames) assert.ok(Buffer.byteLength(frame) < 65536);
});

test('a command made while connecting waits, and is sent once admitted', async () => {
  const server = new FakeServer();
  const client = new Realtime('ws://test', { WebSocket: server.WebSocket });
  clients.push(client);
  client.connect();
  const answer = client.rpc('sum', [1, 2]);
  const connection = await server.connection();
  await connection.admit();
  const { id, method, data } = await connection.expect('rpc');
  assert.deepEqual([method, data], ['sum', [1, 2]]);
  connection.say({ id, rpc: { data: 3 } });
  assert.equal(await answer, 3);
});

test('without a connection, and without one in the making, a command fails at once', async () => {
  const client = new Realtime('ws://test', { WebSocket: class {} });
  await assert.rejects(client.rpc('x'), { code: 2, temporary: false });
});

test('an error of the server rejects the command with its code', async () => {
  const { client, connection } = await make();
  const answer = client.rpc('nope');
  const { id } = await connection.expect('rpc');
  connection.say({ id, error: { code: 104, message: 'method not found' } });
  await assert.rejects(answer, (error) => error instanceof RealtimeError && error.code === 104 && !error.temporary);
});

test('a command without an answer fails in time, and a late answer is ignored', async () => {
  const { client, connection } = await make({ timeoutMs: 5 });
  const answer = client.rpc('slow');
  const { id } = await connection.expect('rpc');
  await assert.rejects(answer, { code: 3, temporary: true });
  connection.say({ id, rpc: {} });
  assert.equal(client.state, 'connected');
});

test('what was unanswered when the connection broke is rejected as lost', async () => {
  const { client, connection } = await make();
  const answer = client.room('a').publish('x');
  await connection.expect('publish');
  connection.close();
  await assert.rejects(answer, { code: 1, temporary: true });
});

test('after a lost connection it comes back by itself and says so', async () => {
  const { client, connection, server } = await make();
  const reconnecting = record(client, 'reconnecting');
  const resumed = next(client, 'resumed');
  connection.close(3001, 'shutdown');
  assert.equal(client.state, 'connecting');
  assert.equal(reconnecting[0].attempt, 1);
  assert.deepEqual([reconnecting[0].code, reconnecting[0].reason], [3001, 'shutdown']);
  await (await server.connection(1)).admit();
  assert.equal((await resumed).recovered, true);
  assert.equal(client.client, 'c2');
});

test('pauses grow up to their ceiling while nobody answers', async () => {
  const server = new FakeServer();
  const random = mock.method(Math, 'random', () => 1);
  const client = new Realtime('ws://test', { WebSocket: server.WebSocket, minDelayMs: 1, maxDelayMs: 5 });
  clients.push(client);
  const reconnecting = record(client, 'reconnecting');
  client.connect();
  for (let n = 0; n < 6; n += 1) (await server.connection(n)).close();
  random.mock.restore();
  assert.deepEqual(reconnecting.map(({ delayMs }) => delayMs), [1, 2, 4, 5, 5, 5]);
});

for (const code of [3500, 3503, 3999, 4500, 1009]) {
  test(`close code ${code} ends it for good`, async () => {
    const { client, connection, server } = await make();
    const answer = client.rpc('x');
    connection.close(code, 'go away');
    assert.equal(client.state, 'disconnected');
    await assert.rejects(answer);
    await turn();
    assert.equal(server.connections.length, 1);
  });
}

for (const code of [1000, 1001, 1006, 3000, 3012, 3499, 4000, 4499, 5000]) {
  test(`close code ${code} makes it come back`, async () => {
    const { client, connection, server } = await make();
    connection.close(code);
    assert.equal(client.state, 'connecting');
    await server.connection(1);
  });
}

test('a disconnect push is obeyed like a close code', async () => {
  const { client, connection } = await make();
  connection.say({ push: { disconnect: { code: 3503, reason: 'force disconnect' } } });
  assert.equal(client.state, 'disconnected');
  assert.ok(connection.isClosedByClient);
});

test('a refused connect is final, a temporary one is tried again', async () => {
  for (const [error, state] of [[{ code: 103, message: 'no' }, 'disconnected'],
    [{ code: 100, message: 'oops', temporary: true }, 'connecting']]) {
    const server = new FakeServer();
    const client = new Realtime('ws://test', { WebSocket: server.WebSocket });
    clients.push(client);
    const ready = client.connect();
    const connection = await server.connection();
    connection.open();
    connection.say({ id: (await connection.expect('connect')).id, error });
    assert.equal(client.state, state);
    if (state === 'disconnected') await assert.rejects(ready, { code: 103 });
  }
});

test('an expired token is replaced and the connection made again', async () => {
  const server = new FakeServer();
  const client = new Realtime('ws://test', {
    WebSocket: server.WebSocket, minDelayMs: 1, token: 'old', getToken: async () => 'new',
  });
  clients.push(client);
  const ready = client.connect();
  const first = await server.connection();
  first.open();
  const connect = await first.expect('connect');
  first.say({ id: connect.id, error: { code: 109, message: 'token expired' } });
  assert.equal((await (await server.connection(1)).admit()).token, 'new');
  await ready;
});

test('without a token to be had it disconnects; when asking failed it tries again', async () => {
  let asked = 0;
  const server = new FakeServer();
  const client = new Realtime('ws://test', {
    WebSocket: server.WebSocket,
    minDelayMs: 1,
    getToken: () => {
      asked += 1;
      if (asked === 1) throw new Error('the network was down');
      return null;
    },
  });
  const errors = record(client, 'error');
  await assert.rejects(client.connect(), { code: 6 });
  assert.equal(asked, 2);
  assert.equal(errors[0].message, 'the network was down');
  assert.equal(server.connections.length, 0);
});

test('the token is renewed when its time is over', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const { connection } = await make({ getToken: () => 'fresh' }, { expires: true, ttl: 60 });
  context.mock.timers.tick(60000);
  const { id, token } = await connection.expect('refresh');
  assert.equal(token, 'fresh');
  connection.say({ id, refresh: { client: 'c1', version: '1', expires: true, ttl: 30 } });
  await turn();
  context.mock.timers.tick(30000);
  await connection.expect('refresh');
});

test('a server that goes silent is left; any frame counts as a sign of life', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const { client, connection } = await make({}, { ping: 25, pong: true });
  context.mock.timers.tick(34000);
  connection.say({ push: { message: { data: 1 } } });
  context.mock.timers.tick(34000);
  assert.equal(client.state, 'connected');
  context.mock.timers.tick(1001);
  assert.equal(client.state, 'connecting');
  assert.ok(connection.isClosedByClient);
});

test('a handshake that hangs is given up', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const server = new FakeServer();
  const client = new Realtime('ws://test', { WebSocket: server.WebSocket });
  clients.push(client);
  client.connect();
  context.mock.timers.tick(10000);
  assert.ok((await server.connection()).isClosedByClient);
  assert.equal(client.state, 'connecting');
});

test('what is no JSON ends the connection, and it comes back', async () => {
  const { connection, server } = await make();
  connection.raw('<html>');
  assert.ok(connection.isClosedByClient);
  await server.connection(1);
});

test('the network is back: no waiting for the pause to end', async (context) => {
  const page = new EventTarget();
  for (const method of ['addEventListener', 'removeEventListener']) {
    globalThis[method] = page[method].bind(page);
    context.after(() => delete globalThis[method]);
  }
  const { client, connection, server } = await make({ minDelayMs: 1e6, maxDelayMs: 1e6 });
  connection.close();
  page.dispatchEvent(new Event('online'));
  assert.equal(server.connections.length, 2);
  await server.connections[1].admit();
  page.dispatchEvent(new Event('online'));
  assert.equal(client.state, 'connecting', 'what was connected ran over the network that is gone');
  client.disconnect();
});

test('a page that is seen again does not wait, and does not trust a silence', async (context) => {
  context.mock.timers.enable({ apis: ['Date', 'setTimeout'] });
  const page = Object.assign(new EventTarget(), { visibilityState: 'hidden' });
  globalThis.document = page;
  context.after(() => delete globalThis.document);
  const see = (state) => {
    page.visibilityState = state;
    page.dispatchEvent(new Event('visibilitychange'));
  };
  const { client, connection, server } = await make({ minDelayMs: 1e6, maxDelayMs: 1e6 }, { ping: 25 });
  see('visible');
  assert.equal(client.state, 'connected');
  context.mock.timers.setTime(Date.now() + 3600e3); // the machine slept, and its timers with it
  see('visible');
  assert.ok(connection.isClosedByClient);
  context.mock.timers.tick(1);
  server.connections[1].close();
  see('hidden');
  assert.equal(server.connections.length, 2);
  see('visible');
  assert.equal(server.connections.length, 3);
  client.disconnect();
});

test('disconnect closes, forgets nothing, and connect begins again', async () => {
  const { client, connection, server } = await make();
  const room = client.room('a');
  room.subscribe();
  const disconnected = record(client, 'disconnected');
  client.disconnect();
  assert.ok(connection.isClosedByClient);
  assert.deepEqual(disconnected, [{ code: 0, reason: 'disconnect called' }]);
  client.connect();
  const second = await server.connection(1);
  await second.admit();
  assert.equal((await second.expect('subscribe')).channel, 'a');
});

test('a handler can be taken away, and one that throws stops nobody', async (context) => {
  const { client, connection } = await make();
  const thrown = [];
  context.mock.method(globalThis, 'setTimeout', (report) => {
    try { report(); } catch (error) { thrown.push(error.message); }
  });
  const heard = [];
  client.on('message', () => { throw new Error('a bug'); });
  const off = client.on('message', (data) => heard.push(data));
  connection.say({ push: { message: { data: 1 } } });
  off();
  connection.say({ push: { message: { data: 2 } } });
  assert.deepEqual(heard, [1]);
  assert.deepEqual(thrown, ['a bug', 'a bug']);
});
