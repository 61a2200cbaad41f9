/** Shows a conversation: days, groups by author, the line above what is new, and how our own messages fare. */

import { $, arrange, avatar, el } from './dom.js';
import { me } from './me.js';

const GROUP_MS = 5 * 60 * 1000;
const NEAR_END_PX = 60;

const clock = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit' });
const moment = new Intl.DateTimeFormat([], { dateStyle: 'full', timeStyle: 'medium' });
const date = new Intl.DateTimeFormat([], { weekday: 'long', day: 'numeric', month: 'long' });
const dayOf = (at) => new Date(at).toDateString();

function dayName(at) {
  const days = Math.round((new Date(dayOf(Date.now())) - new Date(dayOf(at))) / 86400000);
  return ['Today', 'Yesterday'][days] ?? date.format(at);
}

const STATES = {
  sending: 'Sending…',
  waiting: 'Waiting for the connection',
  sent: 'Sent',
  failed: 'Not sent',
};

export class Timeline {
  #log = $('.log');
  #scroller = $('.scroller');
  #pill = $('.pill');
  #elements = new Map(); // key -> element, so that what stands there stays the same element
  #conversation = null;
  #stays = true; // at the end, and following it

  constructor() {
    this.#scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.#pill.addEventListener('click', () => this.toEnd('smooth'));
    $('.earlier').addEventListener('click', () => this.#showEarlier());
    new ResizeObserver(() => this.#stays && this.toEnd()).observe(this.#scroller);
  }

  get #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  /** Somebody sees what comes at the end. */
  get isBeingRead() {
    return this.#stays && document.visibilityState === 'visible';
  }

  /** Show another conversation. Read aloud is only what comes from now on. */
  show(conversation) {
    this.#conversation = conversation;
    this.#elements.clear();
    this.#log.ariaLive = 'off';
    this.#log.replaceChildren();
    this.#stays = true;
    this.update();
    this.#toFirstUnread();
    requestAnimationFrame(() => { this.#log.ariaLive = 'polite'; });
  }

  update({ isOurs = false } = {}) {
    const { messages, outgoing, hasEarlier, isLoaded } = this.#conversation;
    const all = [...messages, ...outgoing];
    const before = this.#elements.size;
    arrange(this.#log, this.#build(all));
    $('.earlier').hidden = !hasEarlier;
    $('.empty').hidden = !isLoaded || all.length > 0;
    if (isOurs || this.#stays) this.toEnd();
    else if (this.#elements.size > before && all.length > 0) this.#pill.hidden = false;
  }

  #build(all) {
    const elements = [];
    let last = null;
    for (const message of all) {
      const isNew = message.key === this.#conversation.firstUnread;
      const isNextDay = !last || dayOf(last.at) !== dayOf(message.at);
      if (isNextDay) elements.push(this.#keep(`day/${dayOf(message.at)}`, () => line('day', dayName(message.at))));
      if (isNew) elements.push(this.#keep('new', () => line('new', 'New')));
      const begins = isNextDay || isNew || last.user !== message.user || message.at - last.at > GROUP_MS;
      elements.push(this.#keep(message.key, () => build(message)));
      this.#refresh(elements.at(-1), message, begins);
      last = message;
    }
    return elements;
  }

  #keep(key, make) {
    if (!this.#elements.has(key)) this.#elements.set(key, make());
    return this.#elements.get(key);
  }

  /** What may change of a message that is shown: its place in a group, and its state. */
  #refresh(element, message, begins) {
    element.classList.toggle('begins', begins);
    const state = message.offset ? '' : message.state;
    if (element.dataset.state === state) return;
    element.dataset.state = state;
    element.querySelector('.fate').replaceChildren(...this.#fate(message, state));
  }

  #fate(message, state) {
    if (state === '') return message.user === me.user ? [el('span.hidden', {}, 'Delivered')] : [];
    if (state !== 'failed') return [STATES[state]];
    const again = el('button', { type: 'button' }, 'Try again');
    const drop = el('button', { type: 'button' }, 'Discard');
    again.addEventListener('click', () => this.#conversation.retry(message));
    drop.addEventListener('click', () => this.#conversation.discard(message));
    return [`${STATES.failed}: ${message.problem}. `, again, ' ', drop];
  }

  // Scrolling

  toEnd(behavior = 'instant') {
    this.#stays = true;
    this.#pill.hidden = true;
    this.#scroller.scrollTo({ top: this.#scroller.scrollHeight, behavior });
    this.#read();
  }

  #toFirstUnread() {
    const mark = this.#elements.get('new');
    if (!mark) return;
    mark.scrollIntoView({ block: 'start' });
    this.#stays = this.#isAtEnd;
  }

  #scrolled() {
    this.#stays = this.#isAtEnd;
    if (!this.#stays) return;
    this.#pill.hidden = true;
    this.#read();
  }

  #read() {
    if (this.isBeingRead) this.#conversation?.markRead();
  }

  /** Add what is older above, and leave in sight what was in sight. */
  async #showEarlier() {
    const fromEnd = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    this.#stays = false;
    await this.#conversation.loadEarlier().catch(() => {});
    this.#scroller.scrollTop = this.#scroller.scrollHeight - fromEnd;
    this.#pill.hidden = true;
  }
}

function line(kind, text) {
  return el(`li.line.${kind}`, {}, el('span', {}, text));
}

function build(message) {
  const { user, name, slot, text, at } = message;
  const time = el('time', { dateTime: new Date(at).toISOString(), title: moment.format(at) }, clock.format(at));
  const by = el('p.by', {}, el('strong', { dir: 'auto' }, name), time);
  if (Number.isInteger(slot)) by.append(el('span.slot-tag', { title: 'the worker that took it' }, `slot ${slot}`));
  const element = el('li.message', {}, avatar(user, name), by,
    el('p.text', { dir: 'auto', title: moment.format(at) }, text), el('p.fate'));
  element.classList.toggle('mine', user === me.user);
  return element;
}
