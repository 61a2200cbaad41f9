// The peer Socket.IO on Node.js: `node socketio_server.mjs WORKERS [REDIS_PORT|deflate]`. It never keeps a
// message.
//
// One worker is one process, as its documentation has it for one core. More are a cluster behind @socket.io/sticky,
// with @socket.io/cluster-adapter between them, or @socket.io/redis-adapter where a Redis is given. WebSocket alone, by
// `ws` with bufferutil; perMessageDeflate off (the default) unless the second argument is `deflate`. "1c" is a cluster
// of one.

import cluster from 'node:cluster';
import { createServer } from 'node:http';
import { createAdapter, setupPrimary } from '@socket.io/cluster-adapter';
import { createAdapter as createRedisAdapter } from '@socket.io/redis-adapter';
import { setupMaster, setupWorker } from '@socket.io/sticky';
import { createClient } from 'redis';
import { Server } from 'socket.io';
import { perMessageDeflate } from './deflate.mjs';

const [count = '1', second] = process.argv.slice(2);
const compresses = second === 'deflate';
const redisPort = compresses ? undefined : second;
const workers = parseInt(count, 10);
const clustered = workers > 1 || count.endsWith('c');
const options = { transports: ['websocket'], serveClient: false, perMessageDeflate: compresses && perMessageDeflate };

function serve(io) {
  io.on('connection', (socket) => {
    let room = null;
    socket.on('join', (name, presence) => {
      room = name;
      socket.join(name);
      socket.emit('joined', name);
      if (presence) {
        io.to(name).emit('came', socket.id);
        socket.on('disconnect', () => io.to(name).emit('went', socket.id));
      }
    });
    socket.on('publish', (data) => io.to(room).emit('m', data));
    socket.on('echo', (data) => socket.emit('m', data));
  });
}

if (!clustered) {
  const http = createServer();
  serve(new Server(http, options));
  http.listen({ host: '127.0.0.1', port: 0, backlog: 2048 }, () => console.log('port', http.address().port));
} else if (cluster.isPrimary) {
  const http = createServer();
  setupMaster(http, { loadBalancingMethod: 'least-connection' });
  if (!redisPort) setupPrimary();
  cluster.setupPrimary({ serialization: 'advanced' }); // as the adapter's README has it
  let ready = 0;
  for (let slot = 0; slot < workers; slot += 1) {
    cluster.fork().on('message', (message) => {
      if (message !== 'serving') return;
      ready += 1;
      if (ready === workers) {
        http.listen({ host: '127.0.0.1', port: 0, backlog: 2048 }, () => console.log('port', http.address().port));
      }
    });
  }
} else {
  const io = new Server(createServer(), options);
  if (redisPort) {
    const publisher = createClient({ socket: { host: '127.0.0.1', port: Number(redisPort) } });
    const subscriber = publisher.duplicate();
    await Promise.all([publisher.connect(), subscriber.connect()]);
    io.adapter(createRedisAdapter(publisher, subscriber));
  } else {
    io.adapter(createAdapter());
  }
  setupWorker(io);
  serve(io);
  process.send('serving');
}
