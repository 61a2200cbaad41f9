// The peer `ws` on Node.js, one process: perMessageDeflate off (its default), bufferutil installed (as its README
// advises for speed), and a broadcast as in its README: a `send` to each member. It never keeps a message.
// `node ws_server.mjs deflate` compresses.

import { WebSocketServer } from 'ws';
import { perMessageDeflate } from './deflate.mjs';

const JOIN = '{"join":"';
const compresses = process.argv[2] === 'deflate' && perMessageDeflate;
const members = new Map();
const server = new WebSocketServer({ host: '127.0.0.1', port: 0, backlog: 2048, perMessageDeflate: compresses });

server.on('connection', (client) => {
  let room = null;
  client.on('error', () => client.terminate());
  client.on('close', () => room?.delete(client));
  client.on('message', (data) => {
    if (room) {
      for (const member of room) member.send(data, { binary: false });
      return;
    }
    const text = data.toString();
    if (!text.startsWith(JOIN)) return client.send(data, { binary: false });
    const name = text.slice(JOIN.length, text.indexOf('"', JOIN.length));
    if (!members.has(name)) members.set(name, new Set());
    room = members.get(name);
    room.add(client);
    client.send(`{"joined":"${name}"}`);
  });
});
server.on('listening', () => console.log('port', server.address().port));
