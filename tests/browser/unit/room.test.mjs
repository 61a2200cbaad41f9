/** The client's rooms: subscriptions, positions, members, what the server may do to them. */

import assert from 'node:assert/strict';
import { after, test } from 'node:test';

import { Realtime } from '../../../realtime/client/realtime.js';
import { connected, next, record, turn } from './fake_server.mjs';

const clients = [];
const make = async (...args) => {
  const made = await connected(Realtime, ...args);
  clients.push(made.client);
  return made;
};
after(() => clients.forEach((client) => client.disconnect()));

const RECOVERABLE = { recoverable: true, positioned: true, epoch: 'E', offset: 7 };
const pub = (channel, offset, data = `m${offset}`) => ({ push: { channel, pub: { data, offset } } });

async function subscribed(options, result = RECOVERABLE) {
  const made = await make();
  const room = made.client.room('a', options);
  const ready = room.subscribe();
  const request = await made.connection.expect('subscribe');
  made.connection.say({ id: request.id, subscribe: result });
  await ready;
  return { ...made, room, request };
}

const texts = (messages) => messages.map(({ data }) => data);

test('the same name is the same room', async () => {
  const { client } = await make();
  assert.equal(client.room('a'), client.room('a'));
});

test('subscribe asks once, moves through its states and keeps the position', async () => {
  const { client, connection } = await make();
  const room = client.room('a', { presence: false, data: { key: 1 } });
  const states = record(room, 'state');
  const [one, two] = [room.subscribe(), room.subscribe()];
  const request = await connection.expect('subscribe');
  assert.deepEqual(request, {
    id: 2, channel: 'a', token: '', data: { key: 1 }, positioned: true, recoverable: true, join_leave: false,
  });
  connection.say({ id: request.id, subscribe: RECOVERABLE });
  await Promise.all([one, two]);
  assert.deepEqual(states.map(({ state }) => state), ['subscribing', 'subscribed']);
  assert.deepEqual(room.position, { epoch: 'E', offset: 7 });
});

test('a publication in the same frame as the answer is not missed', async () => {
  const { client, connection } = await make();
  const room = client.room('a');
  const messages = record(room, 'message');
  room.subscribe();
  const { id } = await connection.expect('subscribe');
  connection.say({ id, subscribe: RECOVERABLE }, pub('a', 8));
  assert.deepEqual(texts(messages), ['m8']);
});

test('what comes twice or late is handed over once', async () => {
  const { room, connection } = await subscribed();
  const messages = record(room, 'message');
  connection.say(pub('a', 7), pub('a', 8), pub('a', 8), pub('a', 9), pub('a', 8));
  assert.deepEqual(texts(messages), ['m8', 'm9']);
  assert.equal(room.position.offset, 9);
});

test('a room without history has no positions and hands over everything', async () => {
  const { room, connection } = await subscribed({}, {});
  const messages = record(room, 'message');
  connection.say({ push: { channel: 'a', pub: { data: 1 } } }, { push: { channel: 'a', pub: { data: 1 } } });
  assert.deepEqual(texts(messages), [1, 1]);
  assert.equal(room.position, null);
});

test('back after a loss, it asks in the first frame from where it was, and gets what it missed', async () => {
  const { client, room, connection, server } = await subscribed();
  connection.say(pub('a', 8));
  const messages = record(room, 'message');
  const heard = next(room, 'subscribed');
  const resumed = next(client, 'resumed');
  connection.close();
  assert.equal(room.state, 'subscribing');
  const second = await server.connection(1);
  second.open();
  const [connect, request] = [await second.expect('connect'), await second.expect('subscribe')];
  assert.equal(second.frames.length, 1);
  assert.deepEqual([request.recover, request.epoch, request.offset], [true, 'E', 8]);
  const publications = [{ data: 'm9', offset: 9 }, { data: 'm10', offset: 10 }];
  second.say(
    { id: connect.id, connect: { client: 'c2', version: '1' } },
    { id: request.id, subscribe: { ...RECOVERABLE, offset: 8, was_recovering: true, recovered: true, publications } },
    pub('a', 10), pub('a', 11),
  );
  assert.deepEqual(texts(messages), ['m9', 'm10', 'm11']);
  assert.deepEqual(messages.map(({ recovered }) => recovered), [true, true, false]);
  assert.deepEqual([(await heard).wasRecovering, (await heard).recovered], [true, true]);
  assert.equal((await resumed).recovered, true);
  assert.equal(room.position.offset, 11);
});

test('what could not be recovered is said, and the position is the new one', async () => {
  const { client, room, connection, server } = await subscribed();
  const heard = next(room, 'subscribed');
  const resumed = next(client, 'resumed');
  connection.close();
  const second = await server.connection(1);
  await second.admit();
  const { id } = await second.expect('subscribe');
  second.say({ id, subscribe: { ...RECOVERABLE, epoch: 'F', offset: 3, was_recovering: true } });
  assert.equal((await heard).recovered, false);
  assert.equal((await resumed).recovered, false);
  assert.deepEqual(room.position, { epoch: 'F', offset: 3 });
  const messages = record(room, 'message');
  second.say(pub('a', 4));
  assert.deepEqual(texts(messages), ['m4'], 'offsets of another epoch are not compared with the old ones');
});

test('resumed waits for every room', async () => {
  const { client, connection, server } = await subscribed();
  client.room('b').subscribe();
  const other = await connection.expect('subscribe');
  connection.say({ id: other.id, subscribe: {} });
  const resumed = record(client, 'resumed');
  connection.close();
  const second = await server.connection(1);
  await second.admit();
  const [a, b] = [await second.expect('subscribe'), await second.expect('subscribe')];
  second.say({ id: a.id, subscribe: { ...RECOVERABLE, was_recovering: true, recovered: true } });
  await turn();
  assert.equal(resumed.length, 0);
  second.say({ id: b.id, subscribe: {} });
  await turn();
  assert.equal(resumed.length, 1);
  assert.equal(resumed[0].recovered, true, 'a room without positions has nothing to recover');
});

test('a refused subscription is final and says why', async () => {
  const { client, connection } = await make();
  const room = client.room('secret');
  const errors = record(room, 'error');
  const ready = room.subscribe();
  const { id } = await connection.expect('subscribe');
  connection.say({ id, error: { code: 103, message: 'permission denied' } });
  await assert.rejects(ready, { code: 103 });
  assert.equal(room.state, 'unsubscribed');
  assert.equal(errors[0].code, 103);
});

test('a temporary error is tried again on the same connection', async () => {
  const { client, connection } = await make();
  const ready = client.room('a').subscribe();
  let { id } = await connection.expect('subscribe');
  connection.say({ id, error: { code: 100, message: 'internal server error', temporary: true } });
  ({ id } = await connection.expect('subscribe'));
  connection.say({ id, subscribe: {} });
  await ready;
});

test('a subscribe without an answer makes a new connection', async () => {
  const { client, connection, server } = await make({ timeoutMs: 5 });
  const reconnecting = next(client, 'reconnecting');
  client.room('a').subscribe();
  await connection.expect('subscribe');
  assert.equal((await reconnecting).code, 3);
  await server.connection(1);
});

test('an expired room token is replaced', async () => {
  const { client, connection } = await make();
  const asked = [];
  const getToken = async (name) => asked.push(name) && 'fresh';
  const ready = client.room('a', { token: 'stale', getToken }).subscribe();
  let request = await connection.expect('subscribe');
  connection.say({ id: request.id, error: { code: 109, message: 'token expired' } });
  request = await connection.expect('subscribe');
  assert.equal(request.token, 'fresh');
  assert.deepEqual(asked, ['a']);
  connection.say({ id: request.id, subscribe: {} });
  await ready;
});

test('a room token is renewed when its time is over', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const { connection } = await subscribed({ getToken: () => 'T' }, { expires: true, ttl: 10 });
  context.mock.timers.tick(10000);
  const { channel, token } = await connection.expect('sub_refresh');
  assert.deepEqual([channel, token], ['a', 'T']);
});

test('unsubscribe tells the server; nothing is handed over afterwards; the way back is by position', async () => {
  const { room, connection } = await subscribed();
  const messages = record(room, 'message');
  room.unsubscribe();
  assert.equal(room.state, 'unsubscribed');
  connection.say(pub('a', 8));
  assert.deepEqual(messages, []);
  room.subscribe();
  await connection.expect('unsubscribe');
  const request = await connection.expect('subscribe');
  assert.deepEqual([request.recover, request.offset], [true, 7]);
});

test('the answer to an earlier subscribe is nobody’s any more', async () => {
  const { client, connection } = await make();
  const room = client.room('a');
  room.subscribe();
  const { id } = await connection.expect('subscribe');
  room.unsubscribe();
  connection.say({ id, subscribe: RECOVERABLE });
  assert.equal(room.state, 'unsubscribed');
});

test('the server unsubscribes: 2000 is final, 2500 asks again from the position, 2502 forgets it', async () => {
  const first = await subscribed();
  first.connection.say({ push: { channel: 'a', unsubscribe: { code: 2000, reason: 'server unsubscribe' } } });
  assert.equal(first.room.state, 'unsubscribed');

  const { room, connection } = await subscribed();
  connection.say(pub('a', 8), { push: { channel: 'a', unsubscribe: { code: 2500, reason: 'insufficient state' } } });
  assert.equal(room.state, 'subscribing');
  let request = await connection.expect('subscribe');
  assert.deepEqual([request.recover, request.epoch, request.offset], [true, 'E', 8]);
  connection.say({ id: request.id, subscribe: { ...RECOVERABLE, offset: 8, recovered: true, was_recovering: true } });
  connection.say({ push: { channel: 'a', unsubscribe: { code: 2502, reason: 'state invalidated' } } });
  request = await connection.expect('subscribe');
  assert.deepEqual([request.recover, request.epoch, request.offset], [true, '_', 0]);
});

test('publish, history, presence and counts speak of the room', async () => {
  const { room, connection } = await subscribed();
  const published = room.publish({ text: 'hi' });
  let request = await connection.expect('publish');
  assert.deepEqual(request, { id: request.id, channel: 'a', data: { text: 'hi' } });
  connection.say({ id: request.id, publish: {} });
  assert.equal(await published, undefined);

  const history = room.history({ limit: 2, since: { epoch: 'E', offset: 7 }, reverse: true });
  request = await connection.expect('history');
  assert.deepEqual([request.limit, request.since, request.reverse], [2, { epoch: 'E', offset: 7 }, true]);
  connection.say({ id: request.id, history: { publications: [{ data: 1, offset: 6 }], epoch: 'E', offset: 7 } });
  assert.deepEqual(await history, { publications: [{ data: 1, offset: 6 }], epoch: 'E', offset: 7 });

  const presence = room.presence();
  request = await connection.expect('presence');
  connection.say({ id: request.id, presence: { presence: { c1: { user: 'u', client: 'c1' } } } });
  assert.deepEqual([...(await presence)], [['c1', { user: 'u', client: 'c1' }]]);

  const counts = room.presenceStats();
  request = await connection.expect('presence_stats');
  connection.say({ id: request.id, presence_stats: { num_clients: 3, num_users: 1 } });
  assert.deepEqual(await counts, { clients: 3, users: 1 });
});

test('members are kept up to date, also by what happens while the server is asked', async () => {
  const { room, connection, request } = await subscribed({ presence: true });
  assert.equal(request.join_leave, true);
  const changes = record(room, 'members');
  const joins = record(room, 'join');
  const asked = await connection.expect('presence');
  const push = (what, client) => ({ push: { channel: 'a', [what]: { info: { user: 'u', client } } } });
  connection.say(push('join', 'new'), push('leave', 'gone'));
  const presence = { gone: { user: 'u', client: 'gone' }, old: { user: 'v', client: 'old' } };
  connection.say({ id: asked.id, presence: { presence } });
  await turn();
  assert.deepEqual([...room.members.keys()].sort(), ['new', 'old']);
  connection.say(push('leave', 'old'));
  assert.deepEqual([...room.members.keys()], ['new']);
  assert.equal(joins.length, 1);
  assert.equal(changes.length, 4);
});

test('rooms the server subscribes us to: at connect, later, and not any more after a reconnect', async () => {
  const { client, connection, server } = await make();
  const rooms = record(client, 'room');
  connection.say({ push: { channel: 'mine', subscribe: { recoverable: true, epoch: 'E', offset: 1 } } });
  const room = rooms[0];
  assert.deepEqual([room.name, room.state, room.serverSide], ['mine', 'subscribed', true]);
  const messages = record(room, 'message');
  connection.say(pub('mine', 2));
  connection.close();
  const second = await server.connection(1);
  second.open();
  const connect = await second.expect('connect');
  assert.deepEqual(connect.subs, { mine: { recover: true, epoch: 'E', offset: 2 } });
  const granted = { recoverable: true, recovered: true, was_recovering: true, epoch: 'E', offset: 2 };
  granted.publications = [{ data: 'm3', offset: 3 }];
  second.say({ id: connect.id, connect: { client: 'c2', version: '1', subs: { mine: granted } } });
  assert.deepEqual(texts(messages), ['m2', 'm3']);
  second.close();
  await (await server.connection(2)).admit();
  assert.equal(room.state, 'unsubscribed');
});
