/**
 * The browser's end of a realtime server: one connection, any number of rooms. An ES module without dependencies; it
 * runs in browsers and in Node. Types and documentation are in realtime.d.ts.
 *
 * It speaks the Centrifuge client protocol (JSON over WebSocket), keeps the connection alive, comes back by itself with
 * the position of each room, and says what it is doing. It never evaluates what it receives, ignores what it does not
 * know, and hands a publication of one position to the application once.
 *
 * Names with an underscore are between the two classes of this file.
 */

const SERVED_BELOW = ''; // a server below a path, as with --own-prefix /rt, puts that path here as it sends this file
const PING_GRACE_MS = 10000; // a ping may be this late before the connection counts as dead
const STABLE_MS = 5000; // a connection that held this long begins its back-off anew
const FRAME_CHARS = 16384; // at most 3 bytes each, so a frame of joined commands stays below the server's 64 KiB
const RENEW_AGAIN_S = 5; // after a token could not be renewed: within the grace that servers give
const MAX_TIMER_MS = 2 ** 31 - 1; // above it setTimeout fires at once

// Codes below 100 are this client's own.
const CALLED = 0;
const LOST = 1;
const NOT_CONNECTED = 2;
const TIMEOUT = 3;
const NO_PING = 4;
const BAD_PROTOCOL = 5;
const UNAUTHORIZED = 6;

/**
 * What went wrong. `message` names the method and the room for whoever reads a console; `reason` is the text alone.
 * `temporary`: trying again later may help.
 */
export class RealtimeError extends Error {
  constructor(code, reason, temporary = false, { method = '', room = '' } = {}) {
    const about = [method, room].filter(Boolean).join(' ');
    super(about ? `${about}: ${reason} (${code})` : reason);
    this.name = 'RealtimeError';
    this.code = code;
    this.reason = reason;
    this.temporary = temporary;
    this.method = method;
    this.room = room;
  }
}

/** The error of one command, which may be about a room, or be a call of the application's own methods. */
const failure = ({ method, params }, code, reason, temporary) => new RealtimeError(code, reason, temporary, {
  method: method === 'rpc' ? `rpc ${params.method}` : method, room: params?.channel,
});

/** The text by which a state change says why: without what stands before it in an error's message. */
const reasonOf = (error) => error.reason ?? error.message;

const CLIENT_EVENTS = ['state', 'connected', 'reconnecting', 'resumed', 'disconnected', 'room', 'message', 'error'];
const CLIENT_OPTIONS = ['token', 'getToken', 'data', 'name', 'minDelayMs', 'maxDelayMs', 'timeoutMs', 'WebSocket'];
const ROOM_EVENTS = ['state', 'subscribed', 'message', 'join', 'leave', 'members', 'error'];
const ROOM_OPTIONS = ['presence', 'joinLeave', 'since', 'data', 'token', 'getToken'];
const HISTORY_OPTIONS = ['limit', 'since', 'reverse'];

const warned = new Set();

/** Warn of names that mean nothing here, each once: a misspelt one would be ignored in silence. */
function warnOfUnknown(what, names, known) {
  for (const name of names) {
    const text = `realtime: ${what} "${name}" means nothing; known: ${known.join(', ')}`;
    if (known.includes(name) || warned.has(text)) continue;
    warned.add(text);
    console.warn(text);
  }
}

const TOKEN_EXPIRED = 109;
const isRetried = (error) =>
  !(error instanceof RealtimeError) || error.temporary || (error.code < 100 && error.code !== UNAUTHORIZED);
const isTerminal = (code) => code === 1009 || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);

/** Full jitter: anywhere between nothing and a ceiling that doubles with each attempt. */
const backOff = (attempt, { minDelayMs, maxDelayMs }) =>
  Math.random() * Math.min(maxDelayMs, minDelayMs * 2 ** Math.min(attempt, 30));

/** A promise with its two ends. When nobody waits for it, its failure is not reported as unhandled. */
function deferred() {
  const ends = {};
  const promise = new Promise((resolve, reject) => Object.assign(ends, { resolve, reject }));
  promise.catch(() => {});
  return { promise, ...ends };
}

function socketUrl(url = `${SERVED_BELOW}/connection/websocket`) {
  const full = new URL(url, globalThis.location?.href);
  full.protocol = full.protocol.replace(/^http/, 'ws');
  if (!/^wss?:$/.test(full.protocol)) throw new TypeError(`not a WebSocket address: ${url}`);
  return full.href;
}

/** A token, where to get another one, and the timer that says when. */
class Token {
  #getToken;
  #arguments;
  #timer;

  constructor(value = '', getToken = null, ...args) {
    this.value = value || '';
    this.#getToken = getToken;
    this.#arguments = args;
  }

  get isMissing() { return this.value === '' && this.#getToken !== null; }

  /** Drop a token that is good no more. False: there is no way to another one. */
  drop() {
    if (this.#getToken) this.value = '';
    return this.#getToken !== null;
  }

  /** Get one where it is missing. Throws what the application throws, or that it says there is none. */
  async fetch() {
    if (this.isMissing) this.value = (await this.#getToken(...this.#arguments)) || '';
    if (this.isMissing) {
      throw new RealtimeError(UNAUTHORIZED, 'unauthorized', false, { method: 'getToken', room: this.#arguments[0] });
    }
  }

  /** When the server says that the token's time is over, `renew` with another one; again and again. */
  renewAfter({ expires, ttl }, renew, giveUp) {
    this.stop();
    if (!expires || !(ttl > 0) || !this.#getToken) return;
    const timer = (this.#timer = setTimeout(async () => {
      let result = { expires, ttl: RENEW_AGAIN_S };
      try {
        this.drop();
        await this.fetch();
        if (timer === this.#timer) result = await renew(this.value);
      } catch (error) {
        if (timer === this.#timer && !isRetried(error)) return giveUp(error);
      }
      if (timer === this.#timer) this.renewAfter(result, renew, giveUp);
    }, Math.min(ttl * 1000, MAX_TIMER_MS)));
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

class Emitter {
  #handlers = new Map();
  #events;

  constructor(events) { this.#events = events; }

  on(event, handler) {
    warnOfUnknown('the event', [event], this.#events);
    if (!this.#handlers.has(event)) this.#handlers.set(event, new Set());
    this.#handlers.get(event).add(handler);
    return () => void this.#handlers.get(event).delete(handler);
  }

  _emit(event, detail) {
    for (const handler of [...(this.#handlers.get(event) ?? [])]) {
      try {
        handler(detail);
      } catch (error) {
        setTimeout(() => { throw error; }); // a handler's bug is to be seen, but does not stop the protocol
      }
    }
  }
}

export class Realtime extends Emitter {
  #url;
  #options;
  #token;
  #state = 'disconnected';
  #ready = deferred(); // of connect()
  #socket = null;
  #rooms = new Map();
  #nextId = 1;
  #pending = new Map(); // command id -> the command that waits for its reply
  #waiting = []; // commands made before the server admitted us
  #batch = []; // what leaves at the end of this turn
  #timers = {}; // retry, handshake, watchdog
  #attempt = 0;
  #answersPings = false;
  #silenceMs = 0; // how long the server may be silent; 0: it does not ping
  #heardAt = 0;
  #connectedAt = 0;
  #lostAt = 0; // when the connection was lost that is not resumed yet; 0: none was

  constructor(url, options = {}) {
    super(CLIENT_EVENTS);
    warnOfUnknown('the option', Object.keys(options), CLIENT_OPTIONS);
    this.#url = socketUrl(url);
    this.#options = {
      name: 'js', minDelayMs: 500, maxDelayMs: 20000, timeoutMs: 5000, WebSocket: globalThis.WebSocket, ...options,
    };
    if (!this.#options.WebSocket) throw new TypeError('no WebSocket here: Node 22 has one; or pass { WebSocket }');
    this.#token = new Token(options.token, options.getToken);
    this.client = '';
    this.data = undefined;
    this._greeted = false; // connect was said on this socket: subscribes may follow it
  }

  get state() { return this.#state; }

  get rooms() { return [...this.#rooms.values()]; }

  // For the application

  connect() {
    if (this.#state === 'disconnected') {
      this.#ready = deferred();
      this.#attempt = 0;
      this.#listen('addEventListener');
      this.#move('connecting', CALLED, 'connect called');
      this.#open();
    }
    return this.#ready.promise;
  }

  disconnect() { this.#end(CALLED, 'disconnect called'); }

  setToken(token) { this.#token.value = token || ''; }

  room(name, options) {
    let room = this.#rooms.get(name);
    if (!room) this.#rooms.set(name, (room = new Room(this, name, this.#options)));
    if (options) room._configure(options);
    return room;
  }

  async rpc(method, data) { return (await this._ask('rpc', { method, data })).data; }

  async send(data) { await this._ask('send', { data }); }

  // Commands

  /** Ask the server, and wait for the answer. */
  _ask(method, params) {
    return new Promise((resolve, reject) => {
      if (this.#state === 'disconnected') reject(failure({ method, params }, NOT_CONNECTED, 'not connected'));
      else this._call(method, params, resolve, reject);
    });
  }

  /** The same with functions, called at once: a subscription must exist before the rest of the frame is looked at. */
  _call(method, params, done, fail, { early = false } = {}) {
    const command = { method, params, done, fail };
    command.timer = setTimeout(() => this.#timedOut(command), this.#options.timeoutMs);
    if (this.#state === 'connected' || early) this.#issue(command);
    else this.#waiting.push(command);
  }

  #issue(command) {
    const { method, params, timer, done } = command;
    if (method === 'send') { // it has no answer
      clearTimeout(timer);
      this.#write({ send: params });
      done();
      return;
    }
    command.id = this.#nextId++;
    this.#pending.set(command.id, command);
    this.#write({ id: command.id, [method]: params });
  }

  #timedOut(command) {
    this.#pending.delete(command.id);
    this.#waiting = this.#waiting.filter((other) => other !== command);
    command.fail(failure(command, TIMEOUT, 'no answer in time', true));
  }

  #write(command) {
    if (this.#batch.push(JSON.stringify(command)) === 1) queueMicrotask(() => this.#flush());
  }

  #flush() {
    const texts = this.#batch.splice(0);
    if (this.#socket?.readyState !== 1) return;
    while (texts.length) {
      let frame = texts.shift();
      while (texts.length && frame.length + texts[0].length < FRAME_CHARS) frame += `\n${texts.shift()}`;
      this.#socket.send(frame);
    }
  }

  // Connecting

  #move(state, code, reason) {
    const was = this.#state;
    this.#state = state;
    if (was !== state) this._emit('state', { state, was, code, reason });
  }

  async #open() {
    this.#clear('retry');
    if (this.#token.isMissing) {
      const place = (this.#socket = { close() {} }); // until there is a socket
      const error = await this.#token.fetch().catch((error) => error);
      if (place !== this.#socket) return;
      if (error) return this.#refused(error);
    }
    const socket = (this.#socket = new this.#options.WebSocket(this.#url));
    this.#timers.handshake = setTimeout(() => this.#lose(TIMEOUT, 'no answer in time'), 2 * this.#options.timeoutMs);
    socket.onopen = () => socket === this.#socket && this.#greet();
    socket.onmessage = (event) => socket === this.#socket && this.#receive(event.data);
    socket.onclose = (event) => socket === this.#socket && this.#closed(event.code, event.reason);
    socket.onerror = () => {}; // close follows
  }

  /** Say connect, and every subscribe with it: to come back costs one round trip. */
  #greet() {
    const { data, name } = this.#options;
    const params = { token: this.#token.value, data: typeof data === 'function' ? data() : data, name, subs: {} };
    for (const room of this.rooms) {
      if (room.serverSide && room._position) params.subs[room.name] = { recover: true, ...room._position };
    }
    const command = {
      method: 'connect', params, done: (result) => this.#admitted(result), fail: (error) => this.#refused(error),
    };
    this._greeted = true;
    this.#issue(command);
    for (const room of this.rooms) if (room._wanted) room._request();
  }

  #admitted(result) {
    this.#clear('handshake');
    this.client = result.client;
    this.data = result.data;
    this.#connectedAt = Date.now();
    this.#answersPings = result.pong === true;
    this.#silenceMs = result.ping > 0 ? result.ping * 1000 + PING_GRACE_MS : 0;
    this.#watch();
    this.#renewAfter(result);
    this.#move('connected', CALLED, 'connected');
    const socket = this.#socket;
    this._emit('connected', { client: this.client, data: this.data, resuming: this.#lostAt > 0 });
    if (socket === null || socket !== this.#socket) return; // a handler changed its mind
    const subs = result.subs ?? {};
    for (const room of this.rooms) {
      if (room.serverSide && !Object.hasOwn(subs, room.name)) room._over(2000, 'server unsubscribe');
    }
    for (const [name, granted] of Object.entries(subs)) this.#grant(name, granted);
    for (const command of this.#waiting.splice(0)) this.#issue(command);
    this.#ready.resolve();
    if (this.#lostAt) this.#resume();
  }

  #grant(name, result, isNew = false) {
    const room = this.room(name);
    room.serverSide = true;
    if (isNew) room._position = null;
    this._emit('room', room); // before its publications, so that handlers can be set
    room._subscribed(result);
  }

  /** Say `resumed` as soon as every room has its answer. */
  async #resume() {
    const socket = this.#socket;
    const rooms = this.rooms.filter((room) => room._wanted || room.serverSide);
    await Promise.all(rooms.map((room) => room._answered()));
    if (socket !== this.#socket) return;
    const awayMs = Date.now() - this.#lostAt;
    this.#lostAt = 0;
    this._emit('resumed', { recovered: rooms.every((room) => room.recovered), awayMs });
  }

  #refused(error) {
    if (error.code === LOST) return; // whoever dropped the connection goes on
    this._emit('error', error);
    if ((error.code === TOKEN_EXPIRED && this.#token.drop()) || isRetried(error)) this.#lose(error.code, reasonOf(error));
    else this.#end(error.code, reasonOf(error));
  }

  // Losing the connection, and coming back

  #closed(code, reason) {
    if (isTerminal(code)) return this.#end(code, reason || 'closed by the server');
    if (code === 3014) { // what we know is not true any more
      this.#token.drop();
      for (const room of this.rooms) room._forget();
    }
    this.#lose(code, reason || 'connection lost');
  }

  /** Let go of the connection, and open another one after a pause. */
  #lose(code, reason, delayMs) {
    if (this.#state === 'disconnected') return;
    if (this.#state === 'connected') {
      this.#lostAt ||= Date.now();
      if (Date.now() - this.#connectedAt > STABLE_MS) this.#attempt = 0;
    }
    this.#drop();
    delayMs ??= Math.round(backOff(this.#attempt, this.#options));
    this.#attempt += 1;
    this.#timers.retry = setTimeout(() => this.#open(), delayMs);
    this.#move('connecting', code, reason);
    this._emit('reconnecting', { attempt: this.#attempt, delayMs, code, reason });
  }

  /** Let go of the connection for good. */
  #end(code, reason) {
    if (this.#state === 'disconnected') return;
    this.#drop();
    this.#listen('removeEventListener');
    this.#lostAt = 0;
    this.#reject(this.#waiting.splice(0), NOT_CONNECTED, reason);
    this.#move('disconnected', code, reason);
    this._emit('disconnected', { code, reason });
    this.#ready.reject(new RealtimeError(code, reason, false, { method: 'connect' }));
  }

  #drop() {
    const socket = this.#socket;
    const unanswered = [...this.#pending.values()];
    this.#socket = null;
    this._greeted = false;
    this.#batch = [];
    this.#pending.clear();
    for (const name of Object.keys(this.#timers)) this.#clear(name);
    this.#token.stop();
    socket?.close();
    for (const room of this.rooms) room._interrupted();
    this.#reject(unanswered, LOST, 'connection lost', true);
  }

  #reject(commands, code, reason, temporary) {
    for (const command of commands) {
      clearTimeout(command.timer);
      command.fail(failure(command, code, reason, temporary));
    }
  }

  _reconnect(code, reason, delayMs) { this.#lose(code, reason, delayMs); }

  #clear(name) {
    clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }

  // The server's silence; the page's own signs that the network is back or the machine woke up

  #watch() {
    this.#heardAt = Date.now();
    if (!this.#silenceMs || this.#timers.watchdog !== undefined) return;
    const check = () => {
      const leftMs = this.#heardAt + this.#silenceMs - Date.now();
      if (leftMs <= 0) this.#lose(NO_PING, 'no ping', 0);
      else this.#timers.watchdog = setTimeout(check, leftMs);
    };
    this.#timers.watchdog = setTimeout(check, this.#silenceMs);
  }

  #listen(method) {
    globalThis[method]?.('online', this.#onOnline);
    globalThis.document?.[method]('visibilitychange', this.#onVisible);
  }

  #onOnline = () => {
    // What was connected ran over a network that is gone; its silence would prove that only much later.
    if (this.#state === 'connected') this.#lose(LOST, 'network changed', 0);
    else this.#hurry();
  };

  #onVisible = () => {
    if (globalThis.document.visibilityState !== 'visible') return;
    const isOverdue = this.#silenceMs > 0 && Date.now() - this.#heardAt > this.#silenceMs;
    if (this.#state === 'connecting') this.#hurry();
    else if (isOverdue) this.#lose(NO_PING, 'no ping', 0);
  };

  #hurry() { if (this.#timers.retry !== undefined) this.#open(); }

  #renewAfter(result) {
    const giveUp = (error) => this.#end(error.code, reasonOf(error));
    this.#token.renewAfter(result, (token) => this._ask('refresh', { token }), giveUp);
  }

  // Receiving

  #receive(frame) {
    const socket = this.#socket;
    this.#watch();
    for (const line of String(frame).split('\n')) {
      if (line.trim() === '') continue;
      let reply;
      try {
        reply = JSON.parse(line);
      } catch {
        return this.#lose(BAD_PROTOCOL, 'bad protocol');
      }
      if (reply !== null && typeof reply === 'object') this.#take(reply);
      if (socket !== this.#socket) return; // that was the end of it
    }
  }

  #take(reply) {
    if (reply.id > 0) this.#answer(reply);
    else if (reply.push) this.#push(reply.push);
    else if (Object.keys(reply).length === 0 && this.#answersPings) this.#write({});
  }

  #answer({ id, error, ...reply }) {
    const command = this.#pending.get(id);
    if (!command) return; // it was given up
    this.#pending.delete(id);
    clearTimeout(command.timer);
    if (error) command.fail(failure(command, error.code, error.message ?? '', error.temporary === true));
    else command.done(reply[command.method] ?? {});
  }

  #push(push) {
    const room = this.#rooms.get(push.channel);
    if (push.pub) room?._publication(push.pub);
    else if (push.join) room?._moved('join', push.join.info);
    else if (push.leave) room?._moved('leave', push.leave.info);
    else if (push.unsubscribe) room?._dismissed(push.unsubscribe);
    else if (push.subscribe) this.#grant(push.channel, push.subscribe, true);
    else if (push.message) this._emit('message', push.message.data);
    else if (push.refresh) this.#renewAfter(push.refresh);
    else if (push.disconnect) this.#closed(push.disconnect.code, push.disconnect.reason);
  }
}

class Room extends Emitter {
  #client;
  #delays; // bounds of the back-off
  #options = {};
  #state = 'unsubscribed';
  #ready = deferred(); // of subscribe()
  #answer = deferred(); // to the request that is on its way
  #turn = 0; // answers of an earlier turn are nobody's any more
  #attempt = 0;
  #token = new Token();
  #retryTimer;
  #seen = 0; // highest offset that was handed to the application
  #moves = null; // joins and leaves since the members were asked for; null: they were not, or are known

  constructor(client, name, delays) {
    super(ROOM_EVENTS);
    this.#client = client;
    this.#delays = delays;
    this.name = name;
    this.members = new Map();
    this.recovered = true;
    this.serverSide = false;
    this._wanted = false;
    this._position = null; // { epoch, offset } once the server can recover from it
  }

  get state() { return this.#state; }

  get position() { return this._position && { ...this._position }; }

  // For the application

  subscribe() {
    if (!this._wanted && !this.serverSide) {
      this._wanted = true;
      this.#attempt = 0;
      this.#ready = deferred();
      this.#move('subscribing', CALLED, 'subscribe called');
      if (this.#client._greeted) this._request();
    }
    return this.#ready.promise;
  }

  unsubscribe() { this.#leave(CALLED, 'unsubscribe called'); }

  #leave(code, reason) {
    const wasAsked = this.#client._greeted && this.#state !== 'unsubscribed';
    this._over(code, reason);
    if (!wasAsked) return;
    const fail = (error) => error.code === TIMEOUT && this.#client._reconnect(TIMEOUT, 'unsubscribe timeout');
    this.#client._call('unsubscribe', { channel: this.name }, () => {}, fail, { early: true });
  }

  async publish(data) { await this.#ask('publish', { data }); }

  async history(options = {}) {
    warnOfUnknown('the option of history', Object.keys(options), HISTORY_OPTIONS);
    const { limit = 0, since, reverse } = options;
    const { publications, epoch, offset } = await this.#ask('history', { limit, since, reverse });
    return { publications: publications ?? [], epoch: epoch ?? '', offset: offset ?? 0 };
  }

  async presence() { return new Map(Object.entries((await this.#ask('presence')).presence ?? {})); }

  async presenceStats() {
    const result = await this.#ask('presence_stats');
    return { clients: result.num_clients ?? 0, users: result.num_users ?? 0 };
  }

  #ask(method, params) { return this.#client._ask(method, { channel: this.name, ...params }); }

  // Subscribing

  _configure(options) {
    warnOfUnknown('the option of a room', Object.keys(options), ROOM_OPTIONS);
    this.#options = { ...this.#options, ...options };
    this.#token = new Token(this.#options.token, this.#options.getToken, this.name);
    if (options.since && this.#state === 'unsubscribed') this._position = { ...options.since };
  }

  #move(state, code, reason) {
    const was = this.#state;
    this.#state = state;
    if (was !== state) this._emit('state', { state, was, code, reason });
  }

  /** Ask for the room, with the position where there is one. Called when the connection takes commands. */
  async _request() {
    const { data, presence, joinLeave } = this.#options;
    const turn = this.#begin();
    if (this.#token.isMissing) {
      const error = await this.#token.fetch().catch((error) => error);
      if (turn !== this.#turn) return;
      if (error) return this.#failed(error);
    }
    const params = {
      channel: this.name, token: this.#token.value, data: typeof data === 'function' ? data() : data,
      positioned: true, recoverable: true, join_leave: Boolean(presence || joinLeave),
    };
    if (this._position) Object.assign(params, { recover: true, ...this._position });
    const done = (result) => turn === this.#turn && this._subscribed(result);
    const fail = (error) => turn === this.#turn && this.#failed(error);
    this.#client._call('subscribe', params, done, fail, { early: true });
  }

  #begin() {
    clearTimeout(this.#retryTimer);
    this.#token.stop();
    this.#answer.resolve();
    this.#answer = deferred();
    return ++this.#turn;
  }

  async _answered() { if (this.#state === 'subscribing') await this.#answer.promise; }

  _subscribed(result) {
    const { epoch = '', offset = 0, publications = [], data } = result;
    const wasRecovering = this._position !== null;
    this.recovered = !wasRecovering || result.recovered === true;
    this._position = result.recoverable ? { epoch, offset } : null;
    this.#seen = offset;
    this.#attempt = 0;
    const giveUp = (error) => this.#leave(error.code, reasonOf(error));
    this.#token.renewAfter(result, (token) => this.#ask('sub_refresh', { token }), giveUp);
    this.#move('subscribed', CALLED, 'subscribed');
    this._emit('subscribed', { wasRecovering, recovered: result.recovered === true, data, position: this.position });
    for (const publication of publications) this._publication(publication, true);
    if (this.#options.presence && this.#state === 'subscribed') this.#loadMembers();
    this.#ready.resolve();
    this.#answer.resolve();
  }

  #failed(error) {
    if (error.code === LOST) return; // the next connection asks again
    this.recovered = false;
    if (error.code === TIMEOUT) return this.#client._reconnect(TIMEOUT, 'subscribe timeout');
    this._emit('error', error);
    if ((error.code === TOKEN_EXPIRED && this.#token.drop()) || isRetried(error)) this.#retry();
    else this._over(error.code, reasonOf(error));
  }

  #retry() {
    const ask = () => this.#client._greeted && this._request();
    this.#begin();
    this.#retryTimer = setTimeout(ask, backOff(this.#attempt++, this.#delays));
  }

  // What ends a subscription

  /** The connection is gone; the next one asks again. */
  _interrupted() {
    if (this.#state === 'unsubscribed') return;
    if (this.#state === 'subscribed') this.#ready = deferred();
    this.#begin();
    this.#move('subscribing', LOST, 'connection lost');
  }

  /** The server ended it: for good, or to make us ask again. */
  _dismissed({ code, reason }) {
    if (this.#state === 'unsubscribed') return;
    if (code < 2500 || this.serverSide) return this._over(code, reason);
    if (code === 2502) this._forget();
    this._interrupted();
    this.#retry();
  }

  _over(code, reason) {
    this._wanted = this.serverSide = false;
    this.#begin();
    this.#answer.resolve();
    this.members = new Map();
    this.#move('unsubscribed', code, reason);
    this.#ready.reject(new RealtimeError(code, reason, false, { method: 'subscribe', room: this.name }));
  }

  /** Drop what the server called invalid, yet make it say that something may be missing. */
  _forget() {
    this.#token.drop();
    if (this._position) this._position = { epoch: '_', offset: 0 };
  }

  // What happens in the room

  _publication(publication, recovered = false) {
    if (this.#state !== 'subscribed') return;
    const { data, offset = 0, info, tags, time } = publication;
    if (offset > 0) {
      if (offset <= this.#seen) return; // handed over before
      this.#seen = offset;
      if (this._position) this._position = { epoch: this._position.epoch || publication.epoch || '', offset };
    }
    this._emit('message', { data, offset, info, tags, time, recovered });
  }

  _moved(event, info) {
    if (this.#state !== 'subscribed' || !info) return;
    this._emit(event, info);
    if (!this.#options.presence) return;
    this.#moves?.push([event, info]);
    this.#apply(event, info);
    this._emit('members', this.members);
  }

  #apply(event, info) {
    if (event === 'join') this.members.set(info.client, info);
    else this.members.delete(info.client);
  }

  /** Ask who is here. What joined and left since then is newer than the answer may be. */
  async #loadMembers() {
    const turn = this.#turn;
    this.#moves = [];
    try {
      const members = await this.presence();
      if (turn !== this.#turn) return;
      this.members = members;
      for (const [event, info] of this.#moves) this.#apply(event, info);
      this.#moves = null;
      this._emit('members', this.members);
    } catch (error) {
      if (turn === this.#turn) this._emit('error', error);
    }
  }
}
