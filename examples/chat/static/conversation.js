/**
 * One room's conversation: its messages in the room's order, those of ours that are on their way, what is unread, who
 * is typing. Knows nothing of the page; says `change` when something is different.
 */

import { draw, me, recall, remember } from './me.js';

const PAGE = 50;
const TYPING_EVERY_MS = 2000;
const TYPING_LASTS_MS = 4000;

export class Conversation {
  messages = []; // as published, by offset: { key, offset, id, text, user, name, slot, at }
  outgoing = []; // ours, not seen in the room yet: the same and { state: 'sending' | 'waiting' | 'sent' | 'failed' }
  unread = 0;
  firstUnread = null; // key of the message above which the line "New" stands
  hasEarlier = false;
  isLoaded = false;
  isBeingRead = () => false; // somebody looks at its end just now; the page says it
  caughtUp = 0; // messages that were recovered when we last came back
  #client;
  #seen = new Set();
  #typing = new Map(); // user -> { name, timer }
  #typedAt = 0;
  #onChange;

  constructor(client, name, topic, onChange) {
    this.#client = client;
    this.#onChange = onChange;
    Object.assign(this, { name, topic });
    this.room = client.room(`chat:${name}`, { presence: true });
    this.side = client.room(`typing:${name}`);
    this.room.on('subscribed', ({ recovered }) => {
      this.caughtUp = 0;
      if (!recovered) this.#begin();
    });
    this.room.on('message', (message) => this.#take(message));
    this.room.on('members', () => this.#say('people'));
    this.side.on('message', ({ data }) => this.#types(data));
    this.room.subscribe();
  }

  #say(what) {
    this.#onChange(this, what);
  }

  // Messages

  #take({ data, offset, recovered }) {
    const message = this.#add(data, offset);
    if (!message) return;
    this.#stopsTyping(message.user);
    if (recovered) this.caughtUp += 1;
    if (message.user !== me.user && !this.isBeingRead()) {
      this.unread += 1;
      this.firstUnread ??= message.key;
    }
    this.#say('messages');
  }

  /** Put a publication in its place. Says nothing when a retry had it published twice. */
  #add({ id, text, user, name, slot, at }, offset) {
    const key = `${user}/${id}`;
    if (this.#seen.has(key)) return null;
    this.#seen.add(key);
    this.outgoing = this.outgoing.filter((message) => message.key !== key);
    const message = { key, offset, id, text: String(text), user: String(user), name: String(name), slot, at };
    let place = this.messages.length;
    while (place > 0 && this.messages[place - 1].offset > offset) place -= 1;
    this.messages.splice(place, 0, message);
    return message;
  }

  /** Read the end of the history: on entering, and when too much was missed to be recovered. */
  async #begin() {
    this.messages = [];
    this.#seen.clear();
    try {
      const { publications, ...top } = await this.room.history({ limit: PAGE, reverse: true });
      for (const { data, offset } of publications) this.#add(data, offset);
      this.hasEarlier = publications.length === PAGE;
      this.#countUnread(top);
      this.isLoaded = true;
      this.#say('loaded');
    } catch {
      // The connection was lost meanwhile; the next subscription begins again.
    }
  }

  async loadEarlier() {
    const since = { epoch: this.room.position?.epoch ?? '', offset: this.messages[0]?.offset ?? 0 };
    const { publications } = await this.room.history({ limit: PAGE, reverse: true, since });
    for (const { data, offset } of publications) this.#add(data, offset);
    this.hasEarlier = publications.length === PAGE;
    this.#say('messages');
  }

  /** Count from where this browser last read. On the first visit that is here. */
  #countUnread(top) {
    const read = recall(`chat.read.${this.name}`);
    if (!read) remember(`chat.read.${this.name}`, top);
    const since = !read ? top.offset : read.epoch === top.epoch ? read.offset : 0;
    const unread = this.messages.filter((message) => message.offset > since && message.user !== me.user);
    this.unread = unread.length;
    this.firstUnread = unread[0]?.key ?? null;
  }

  /** Somebody has looked at it to its end. */
  markRead() {
    const { position } = this.room;
    if (position && this.isLoaded) remember(`chat.read.${this.name}`, position);
    if (this.unread === 0) return;
    this.unread = 0;
    this.#say('unread');
  }

  // Ours

  send(text) {
    const id = draw();
    const message = { key: `${me.user}/${id}`, id, text, user: me.user, name: me.name, at: Date.now() };
    this.outgoing.push(message);
    this.firstUnread = null;
    this.#typedAt = 0;
    this.#deliver(message);
  }

  retry(message) {
    if (this.outgoing.includes(message)) this.#deliver(message);
  }

  discard(message) {
    this.outgoing = this.outgoing.filter((other) => other !== message);
    this.#say('messages');
  }

  /** The connection is back, and what arrived before it broke has been recovered: send the rest again. */
  resend() {
    for (const message of this.outgoing) if (message.state === 'waiting') this.#deliver(message);
  }

  async #deliver(message) {
    message.state = this.#client.state === 'connecting' ? 'waiting' : 'sending';
    this.#say('messages');
    if (message.state === 'waiting') return;
    try {
      await this.room.publish({ id: message.id, text: message.text });
      message.state = 'sent';
    } catch (error) {
      // It may have arrived all the same. The id stays, so that sending it again shows it once.
      message.state = error.temporary && this.#client.state === 'connecting' ? 'waiting' : 'failed';
      message.problem = error.reason ?? error.message;
    }
    this.#say('messages');
  }

  // Typing

  get typing() {
    return [...this.#typing.values()].map(({ name }) => name);
  }

  typed() {
    if (Date.now() - this.#typedAt < TYPING_EVERY_MS || this.#client.state !== 'connected') return;
    this.#typedAt = Date.now();
    this.side.publish({}).catch(() => {}); // nobody misses it
  }

  #types({ user, name }) {
    if (user === me.user) return;
    clearTimeout(this.#typing.get(user)?.timer);
    const timer = setTimeout(() => this.#stopsTyping(user), TYPING_LASTS_MS);
    this.#typing.set(user, { name: String(name), timer });
    this.#say('typing');
  }

  #stopsTyping(user) {
    clearTimeout(this.#typing.get(user)?.timer);
    if (this.#typing.delete(user)) this.#say('typing');
  }

  // People

  /** Users, not connections: two tabs are one person. We come first. */
  get people() {
    const people = new Map();
    for (const { user, conn_info: info } of this.room.members.values()) {
      const person = people.get(user) ?? { user, name: '', slots: new Set(), tabs: 0 };
      person.name = String(info?.name ?? 'Somebody');
      if (Number.isInteger(info?.slot)) person.slots.add(info.slot);
      person.tabs += 1;
      people.set(user, person);
    }
    const first = (person) => (person.user === me.user ? 0 : 1);
    return [...people.values()].sort((a, b) => first(a) - first(b) || a.name.localeCompare(b.name));
  }
}
