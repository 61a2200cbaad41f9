/** What the client says of mistakes: errors name method and room; names that mean nothing are warned of, once. */

import assert from 'node:assert/strict';
import { after, beforeEach, test } from 'node:test';

import { Realtime, RealtimeError } from '../../../realtime/client/realtime.js';
import { connected } from './fake_server.mjs';

const clients = [];
const warnings = [];
const warn = console.warn;
console.warn = (text) => warnings.push(text);
beforeEach(() => warnings.splice(0));
after(() => {
  console.warn = warn;
  clients.forEach((client) => client.disconnect());
});

const make = async (...args) => {
  const made = await connected(Realtime, ...args);
  clients.push(made.client);
  return made;
};

const failed = async (promise) => {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof RealtimeError);
    return error;
  }
  return assert.fail('it did not fail');
};

test('the error of a publication names method and room, and has the reason alone beside it', async () => {
  const { client, connection } = await make();
  const publishing = failed(client.room('chat:lobby').publish({ text: 'x' }));
  const { id } = await connection.expect('publish');
  connection.say({ id, error: { code: 103, message: 'permission denied' } });
  const { message, reason, method, room, code, temporary } = await publishing;
  assert.equal(message, 'publish chat:lobby: permission denied (103)');
  assert.deepEqual([reason, method, room, code, temporary], ['permission denied', 'publish', 'chat:lobby', 103, false]);
});

test('the error of a call names the method of the application', async () => {
  const { client, connection } = await make();
  const calling = failed(client.rpc('rename', {}));
  const { id } = await connection.expect('rpc');
  connection.say({ id, error: { code: 104, message: 'method not found' } });
  assert.equal((await calling).message, 'rpc rename: method not found (104)');
});

test('a subscription that is refused names the room; its state says the reason alone', async () => {
  const { client, connection } = await make();
  const room = client.room('staff');
  const states = [];
  room.on('state', (change) => states.push(change));
  const subscribing = failed(room.subscribe());
  const { id } = await connection.expect('subscribe');
  connection.say({ id, error: { code: 103, message: 'permission denied' } });
  assert.equal((await subscribing).message, 'subscribe staff: permission denied (103)');
  assert.equal(states.at(-1).reason, 'permission denied');
});

test('what is asked without a connection names method and room', async () => {
  const { client } = await make();
  client.disconnect();
  assert.equal((await failed(client.room('a').history())).message, 'history a: not connected (2)');
  assert.equal((await failed(client.send(1))).message, 'send: not connected (2)');
});

test('what the loss of a connection leaves unanswered names method and room', async () => {
  const { client, connection } = await make();
  const asking = failed(client.room('a').presence());
  await connection.expect('presence');
  client.disconnect();
  assert.equal((await asking).message, 'presence a: connection lost (1)');
});

test('an event that there is not is warned of once, and the known ones are named', async () => {
  const { client } = await make();
  client.on('conected', () => {});
  client.on('conected', () => {});
  client.room('a').on('mesage', () => {});
  client.on('connected', () => {});
  client.room('a').on('message', () => {});
  assert.deepEqual(warnings, [
    'realtime: the event "conected" means nothing; known: state, connected, reconnecting, resumed, disconnected, room, '
      + 'message, error',
    'realtime: the event "mesage" means nothing; known: state, subscribed, message, join, leave, members, error',
  ]);
});

test('options that there are not are warned of', async () => {
  const { client, connection } = await make({ tokn: 'x' });
  client.room('a', { presense: true });
  const asking = client.room('a').history({ limt: 5, limit: 5 });
  const { id } = await connection.expect('history');
  connection.say({ id, history: {} });
  await asking;
  assert.deepEqual(warnings.map((text) => text.split(';')[0]), [
    'realtime: the option "tokn" means nothing',
    'realtime: the option of a room "presense" means nothing',
    'realtime: the option of history "limt" means nothing',
  ]);
});
