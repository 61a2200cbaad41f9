/**
 * A scripted server for the client's tests: a WebSocket class to inject, whose other end the test plays itself.
 *
 * Nothing is sent over a network. What the client says is kept by connection; what the server says arrives as a frame
 * of its own, as it would from a socket.
 */

export class FakeServer {
  connections = [];
  #watchers = new Set();

  constructor() {
    const server = this;
    this.WebSocket = class {
      constructor(url) {
        const connection = new FakeConnection(server, this, url);
        Object.assign(this, { readyState: 0, connection });
        server.connections.push(connection);
        server._changed();
      }

      send(text) {
        if (this.readyState !== 1) throw new Error('sent on a socket that is not open');
        this.connection.frames.push(text);
        for (const line of text.split('\n')) this.connection.commands.push(JSON.parse(line));
        server._changed();
      }

      close() {
        this.readyState = 3;
        this.connection.isClosedByClient = true;
        server._changed();
      }
    };
  }

  /** Wait for the connection of this number, from 0. */
  async connection(number = 0) {
    await this.until(() => this.connections.length > number);
    return this.connections[number];
  }

  /** Wait, without a clock, until something the client did makes this true. */
  async until(isTrue) {
    while (!isTrue()) await new Promise((resolve) => this.#watchers.add(resolve));
  }

  _changed() {
    for (const wake of this.#watchers) wake();
    this.#watchers.clear();
  }
}

class FakeConnection {
  frames = []; // as they were sent
  commands = []; // parsed, in order
  isClosedByClient = false;
  #next = 0;

  constructor(server, socket, url) {
    Object.assign(this, { server, socket, url });
  }

  open() {
    this.socket.readyState = 1;
    this.socket.onopen?.({});
  }

  /** Send replies joined in one frame. */
  say(...replies) {
    this.socket.onmessage?.({ data: replies.map((reply) => JSON.stringify(reply)).join('\n') });
  }

  raw(text) {
    this.socket.onmessage?.({ data: text });
  }

  close(code = 1006, reason = '') {
    this.socket.readyState = 3;
    this.socket.onclose?.({ code, reason });
  }

  /** Wait for the next command the client sends on this connection. */
  async command() {
    await this.server.until(() => this.commands.length > this.#next);
    return this.commands[this.#next++];
  }

  /** Wait for the next command, which must have this method; return its id and parameters. */
  async expect(method) {
    const command = await this.command();
    if (!(method in command)) throw new Error(`expected ${method}, the client sent ${JSON.stringify(command)}`);
    return { id: command.id, ...command[method] };
  }

  /** Answer connect, once it is said. */
  async admit(result = {}) {
    this.open();
    const connect = await this.expect('connect');
    this.say({ id: connect.id, connect: { client: `c${this.server.connections.length}`, version: '1', ...result } });
    return connect;
  }
}

/** Connect a client to a fresh fake server. Delays are so short that no test waits for them. */
export async function connected(Realtime, options = {}, result = {}) {
  const server = new FakeServer();
  const client = new Realtime('ws://test/connection/websocket', {
    WebSocket: server.WebSocket, minDelayMs: 1, maxDelayMs: 2, ...options,
  });
  const ready = client.connect();
  const connection = await server.connection();
  await connection.admit(result);
  await ready;
  return { server, client, connection };
}

/** Record the details of an event. */
export function record(emitter, event) {
  const details = [];
  emitter.on(event, (detail) => details.push(detail));
  return details;
}

/** Wait for the next event of a kind. */
export const next = (emitter, event) =>
  new Promise((resolve) => {
    const off = emitter.on(event, (detail) => {
      off();
      resolve(detail);
    });
  });

/** Let everything that is due in this turn happen. */
export const turn = () => new Promise((resolve) => setImmediate(resolve));
