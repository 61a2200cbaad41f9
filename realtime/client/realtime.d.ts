/**
 * The browser's end of a realtime server.
 *
 * ```js
 * import { Realtime } from '/realtime.js';
 *
 * const client = new Realtime();
 * const room = client.room('chat:lobby', { presence: true });
 * room.on('message', ({ data }) => console.log(data));
 * room.subscribe();
 * client.connect();
 * await room.publish({ text: 'hello' });
 * ```
 *
 * A client comes back by itself after a lost connection, with the position of each room: what was published meanwhile
 * is handed over in order and once. `resumed` says how that went.
 */

/** Any value that JSON can say. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** Takes a handler away again. */
export type Off = () => void;

/** A place in a room's stream: after publication `offset` of its life `epoch`. */
export interface Position {
  epoch: string;
  offset: number;
}

/** Who published, joined or left. */
export interface ClientInfo {
  /** The user; '' when anonymous. One user may have several connections. */
  user: string;
  /** The connection. */
  client: string;
  /** What the application says of the connection. */
  conn_info?: any;
  /** What the application says of the connection in this room. */
  chan_info?: any;
}

/** A publication as it is stored. */
export interface Publication<T = any> {
  data: T;
  /** Its place in the room's stream. Absent in rooms without history. */
  offset?: number;
  /** Who published it. Absent when the server did. */
  info?: ClientInfo;
  tags?: Record<string, string>;
  /** When, in Unix milliseconds, where the server says so. */
  time?: number;
}

/** A publication as a room hands it over. */
export interface Message<T = any> extends Publication<T> {
  /** 0 in rooms without history. */
  offset: number;
  /** It was published while this client was away. */
  recovered: boolean;
}

export type ClientState = 'disconnected' | 'connecting' | 'connected';
export type RoomState = 'unsubscribed' | 'subscribing' | 'subscribed';

/**
 * Something failed. `code` is the server's (100 to 1999: an error; 2000 to 2499: the subscription was ended; 3000 and
 * more: the connection was), or one of this client's own:
 *
 * | code | meaning |
 * |------|---------|
 * | 0 | `disconnect` or `unsubscribe` was called |
 * | 1 | the connection was lost before the answer came; the command may or may not have happened |
 * | 2 | not connected, and not trying to be |
 * | 3 | no answer in time |
 * | 4 | the server went silent |
 * | 5 | the server said something that is no JSON |
 * | 6 | `getToken` had no token |
 */
export class RealtimeError extends Error {
  constructor(code: number, reason: string, temporary?: boolean, about?: { method?: string; room?: string });
  /** For people who read a console: method, room, reason and code, as in `publish chat:lobby: not available (108)`. */
  readonly message: string;
  readonly code: number;
  /** The text alone, as the server has it: for people who use the page. */
  readonly reason: string;
  /** What failed: 'connect', 'subscribe', 'publish', 'rpc rename', 'getToken', …; '' where it is none of these. */
  readonly method: string;
  /** The room that it is about; '' for none. */
  readonly room: string;
  /** Trying again later may help. */
  readonly temporary: boolean;
}

export interface StateChange<State> {
  state: State;
  was: State;
  code: number;
  reason: string;
}

export interface RealtimeOptions {
  /** Proves who this is. */
  token?: string;
  /**
   * Gets a token: at first when there is no `token`, and whenever one has expired. Return '' or nothing to say that
   * there is none: the client then disconnects. Throw when asking failed: it tries again later.
   */
  getToken?: () => Promise<string | null | undefined> | string | null | undefined;
  /** For the server's `on_connect`; a function is called at each connect. */
  data?: Json | (() => Json | undefined);
  /** Names this kind of client in the server's log. Default: 'js'. */
  name?: string;
  /** Ceiling of the first pause before connecting again. It doubles with each attempt; default 500. */
  minDelayMs?: number;
  /** Highest ceiling of that pause; default 20000. */
  maxDelayMs?: number;
  /** How long a command waits for its answer; default 5000. */
  timeoutMs?: number;
  /** Used in place of the global WebSocket, e.g. in a test or in an old Node. */
  WebSocket?: new (url: string) => any;
}

export interface ClientEvents {
  state: StateChange<ClientState>;
  /** The server admitted us. `resuming`: an earlier connection was lost, and `resumed` follows. */
  connected: { client: string; data: any; resuming: boolean };
  /** The connection is lost, or could not be made; the next attempt begins in `delayMs`. */
  reconnecting: { attempt: number; delayMs: number; code: number; reason: string };
  /** After a lost connection every room has its answer. `recovered`: no room missed anything. */
  resumed: { recovered: boolean; awayMs: number };
  /** For good: until `connect` is called again. */
  disconnected: { code: number; reason: string };
  /** The server subscribed us to a room. Comes before that room's publications. */
  room: Room;
  /** A message from the server that belongs to no room. */
  message: any;
  error: Error;
}

/** One connection to the server, and the rooms in it. */
export class Realtime {
  /**
   * Prepare a client; nothing is sent before `connect`.
   *
   * @param url a `ws:`, `wss:`, `http:` or `https:` address, or a path on this page's host. Default:
   *   `/connection/websocket` on this page's host, below the path of the server that sent this
   *   module (`--own-prefix`, `--root-path`, a mount).
   */
  constructor(url?: string, options?: RealtimeOptions);

  readonly state: ClientState;
  /** This connection's id; another one after each reconnect. '' before the first. */
  readonly client: string;
  /** What the server's `on_connect` returned. */
  readonly data: any;
  readonly rooms: Room[];

  /** Connect, and stay connected. Resolves once connected; rejects when the server refuses for good. */
  connect(): Promise<void>;
  /** Disconnect, and stay so. Rooms that were wanted are subscribed again after the next `connect`. */
  disconnect(): void;
  /** Use this token from the next connect on. */
  setToken(token: string): void;

  /**
   * Return the room of this name: always the same object. `options` are added to those it has. `T` is what is
   * published there: `client.room<{ text: string }>('chat:lobby')`. Nothing checks it at run time.
   */
  room<T = any>(name: string, options?: RoomOptions): Room<T>;

  /** Call a method of the application. */
  rpc<T = any>(method: string, data?: Json): Promise<T>;
  /** Send the application a message that expects no answer. */
  send(data: Json): Promise<void>;

  /** Handle an event. Returns a function that takes the handler away. An event that there is not is warned of. */
  on<E extends keyof ClientEvents>(event: E, handler: (detail: ClientEvents[E]) => void): Off;
}

export interface RoomOptions {
  /** Keep `members` up to date; joins and leaves are asked for. */
  presence?: boolean;
  /** Ask for joins and leaves alone. */
  joinLeave?: boolean;
  /** Begin after this position rather than now. */
  since?: Position;
  /** For the server's `on_subscribe`; a function is called at each subscribe. */
  data?: Json | (() => Json | undefined);
  /** Admits to this room. */
  token?: string;
  /** As `RealtimeOptions.getToken`, for this room. */
  getToken?: (room: string) => Promise<string | null | undefined> | string | null | undefined;
}

export interface RoomEvents<T = any> {
  state: StateChange<RoomState>;
  /**
   * `wasRecovering`: there was a position to go on from. Then `recovered` says whether everything since came: the
   * publications follow as messages. Where it did not, read the history.
   */
  subscribed: { wasRecovering: boolean; recovered: boolean; data: any; position: Position | null };
  message: Message<T>;
  join: ClientInfo;
  leave: ClientInfo;
  /** `members` changed. Only with the option `presence`. */
  members: Map<string, ClientInfo>;
  error: Error;
}

export interface HistoryOptions {
  /** How many at most. Default: 0, none, only the position at the top of the stream. */
  limit?: number;
  /** Begin after this position, or before it when `reverse`. */
  since?: Position;
  /** From the newest down. */
  reverse?: boolean;
}

export interface History<T = any> extends Position {
  publications: Publication<T>[];
}

/** A room. Made by `Realtime.room`. */
export interface Room<T = any> {
  readonly name: string;
  readonly state: RoomState;
  /** Where we are in the room's stream; null in a room that cannot be recovered. */
  readonly position: Position | null;
  /** Connection id to who it is. Only with the option `presence`; of a lost connection until it is back. */
  readonly members: Map<string, ClientInfo>;
  /** Nothing was missed when this room was last subscribed. */
  readonly recovered: boolean;
  /** The server subscribed us, not we. */
  readonly serverSide: boolean;

  /** Subscribe, and stay subscribed. Resolves once subscribed; rejects when the server refuses for good. */
  subscribe(): Promise<void>;
  /** Leave the room. The position is kept: a later `subscribe` recovers from it. */
  unsubscribe(): void;

  /** Publish. Resolves when the server has it. After a temporary error it may have it or not. */
  publish(data: Json): Promise<void>;
  history(options?: HistoryOptions): Promise<History<T>>;
  presence(): Promise<Map<string, ClientInfo>>;
  presenceStats(): Promise<{ clients: number; users: number }>;

  /** Handle an event. Returns a function that takes the handler away. */
  on<E extends keyof RoomEvents<T>>(event: E, handler: (detail: RoomEvents<T>[E]) => void): Off;
}
